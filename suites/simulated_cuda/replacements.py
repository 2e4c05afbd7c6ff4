"""CUDA operators that the CPU has under another name, or not in this form."""

import torch

from . import attention

aten = torch.ops.aten


def softmax(scores, dim, half_to_float):
    return aten._softmax(scores.float() if half_to_float else scores, dim, False)


def softmax_out(scores, dim, half_to_float, *, out):
    return out.resize_(scores.shape).copy_(softmax(scores, dim, half_to_float))


def log_softmax(scores, dim, half_to_float):
    return aten._log_softmax(scores.float() if half_to_float else scores, dim, False)


def log_softmax_out(scores, dim, half_to_float, *, out):
    return out.resize_(scores.shape).copy_(log_softmax(scores, dim, half_to_float))


def mm(left, right, out_dtype):
    return left.to(out_dtype) @ right.to(out_dtype)


def mm_out(left, right, out_dtype, *, out):
    return out.resize_(*left.shape[:-1], right.shape[-1]).copy_(mm(left, right, out_dtype))


def addmm(bias, left, right, out_dtype, *, beta=1, alpha=1):
    return beta * bias.to(out_dtype) + alpha * mm(left, right, out_dtype)


def addmm_out(bias, left, right, out_dtype, *, beta=1, alpha=1, out):
    computed = addmm(bias, left, right, out_dtype, beta=beta, alpha=alpha)
    return out.resize_(computed.shape).copy_(computed)


def convolution(inputs, weight, padding, stride, dilation, groups, benchmark, deterministic, allow_tf32):
    return aten.convolution(inputs, weight, None, stride, padding, dilation, False, [0] * len(stride), groups)


def convolution_transpose(
    inputs, weight, padding, output_padding, stride, dilation, groups, benchmark, deterministic, allow_tf32
):
    return aten.convolution(inputs, weight, None, stride, padding, dilation, True, output_padding, groups)


def depthwise(inputs, weight, kernel_size, bias, stride, padding, dilation):
    return aten.convolution(
        inputs, weight, bias, stride, padding, dilation, False, [0] * len(stride), inputs.shape[1]
    )  # fmt: skip


def pack_int4(weight, tiles):
    """Pack nothing: the bytes of the CPU's layout in the shape of CUDA's, which `int4_mm` undoes."""
    rows, columns = weight.shape[0], weight.shape[1] * 2
    return weight.contiguous().view(torch.int32).view(rows // 8, columns // (tiles * 16), 32, tiles // 2)


def int4_mm(inputs, packed, group, scales_and_zeros):
    rows, columns = packed.shape[0] * 8, inputs.shape[1]
    both = packed.contiguous().view(torch.uint8).view(rows, columns // 2)
    steps = torch.stack([both >> 4, both & 15], -1).view(rows, columns // group, group).float() - 8
    scale, zero = scales_and_zeros.float().transpose(0, 1).unbind(-1)
    weight = (steps * scale[..., None] + zero[..., None]).view(rows, columns).to(inputs.dtype)
    return inputs @ weight.t()


def isin(elements, tested, **options):
    """The CPU's wants contiguous arguments."""
    return aten.isin(elements.contiguous(), tested.contiguous(), **options)


BY_NAME = {
    "isin.Tensor_Tensor": isin,
    "isin.Tensor_Tensor_out": isin,
    "_softmax": softmax,
    "_softmax.out": softmax_out,
    "_log_softmax": log_softmax,
    "_log_softmax.out": log_softmax_out,
    "mm.dtype": mm,
    "mm.dtype_out": mm_out,
    "bmm.dtype": mm,
    "bmm.dtype_out": mm_out,
    "addmm.dtype": addmm,
    "addmm.dtype_out": addmm_out,
    "baddbmm.dtype": addmm,
    "baddbmm.dtype_out": addmm_out,
    "cudnn_convolution": convolution,
    "cudnn_convolution_transpose": convolution_transpose,
    "_conv_depthwise2d": depthwise,
    "conv_depthwise3d": depthwise,
    "_convert_weight_to_int4pack": pack_int4,
    "_weight_int4pack_mm": int4_mm,
    **attention.BY_NAME,
}
