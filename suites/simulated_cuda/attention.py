"""CUDA's attention kernels, computed by the CPU's. Shapes and results are those of their schemas in torch."""

from itertools import pairwise

import torch

aten = torch.ops.aten
BOTTOM_RIGHT = 2
"""`custom_mask_type` of the efficient kernel: causal, with the last query at the last key. 1 is with the first at the
first, 0 is no mask."""


def flash(
    query, key, value, starts_q, starts_k, max_q, max_k, dropout_p, is_causal, return_debug_mask, *,
    scale=None, window_size_left=None, window_size_right=None, seqused_k=None, alibi_slopes=None,
    block_table=None, num_splits=None,
):  # fmt: skip
    """`_flash_attention_forward`: (batch, length, heads, size), or without a batch for sequences of many lengths."""
    _refuse(dropout=dropout_p, alibi_slopes=alibi_slopes, block_table=block_table)
    window = (_side(window_size_left), _side(window_size_right))
    if starts_q is None:
        out, logs = _batch(query, key, value, scale, causal=is_causal, window=window)
    else:
        out, logs = _packed(query, key, value, starts_q, starts_k, seqused_k, scale, is_causal, window)
    state = torch.zeros(2, dtype=torch.int64)
    return out, logs, state, torch.zeros((), dtype=torch.int64), torch.empty(0, dtype=query.dtype)


def flash_into(out, query, key, value, *args, **kwargs):
    """`_flash_attention_forward_no_dropout_inplace`."""
    computed, logs, *_ = flash(query, key, value, *args, **kwargs)
    out.copy_(computed)
    return logs


def efficient(
    query, key, value, bias, starts_q, starts_k, max_q, max_k, dropout_p, custom_mask_type, compute_log_sumexp=False,
    *, scale=None, seqlen_k=None, window_size=None,
):  # fmt: skip
    """`_efficient_attention_forward`: (batch, length, heads, size)."""
    _refuse(dropout=dropout_p, seqlen_k=seqlen_k, window_size=window_size)
    if starts_q is not None:
        _refuse(bias=bias)
        causal = custom_mask_type != 0
        out, logs = _packed(query[0], key[0], value[0], starts_q, starts_k, None, scale, causal, (None, None))
        out, logs = out[None], logs[None]
    else:
        mask = _triangle(query.shape[1], key.shape[1], custom_mask_type)
        out, logs = _batch(query, key, value, scale, bias=_joined(bias, mask, query.dtype))
    none = torch.zeros((), dtype=torch.int64)
    return out, logs, none, none, query.shape[1], key.shape[1]


def cudnn(
    query, key, value, bias, starts_q, starts_k, max_q, max_k, compute_log_sumexp, dropout_p=0.0, is_causal=False,
    return_debug_mask=False, *, scale=None,
):  # fmt: skip
    """`_cudnn_attention_forward`: (batch, heads, length, size)."""
    _refuse(dropout=dropout_p, cumulative_lengths=starts_q)
    q, k, v = (each.transpose(1, 2) for each in (query, key, value))
    mask = _triangle(q.shape[1], k.shape[1], int(is_causal))
    out, logs = _batch(q, k, v, scale, bias=_joined(bias, mask, query.dtype))
    none = torch.zeros((), dtype=torch.int64)
    return out.transpose(1, 2), logs[..., None], None, None, max_q, max_k, none, none, None


def _batch(query, key, value, scale, *, bias=None, causal=False, window=(None, None)):
    """Attention of a batch, (batch, length, heads, size), in the dtype of the query; and its log-sum-exp."""
    mask = _window(query.shape[1], key.shape[1], causal, window)
    bias = _joined(bias, mask, query.dtype)
    groups = query.shape[2] // key.shape[2]
    q, k, v = (each.transpose(1, 2) for each in (query, key, value))
    k, v = (each.repeat_interleave(groups, 1) if groups > 1 else each for each in (k, v))
    size = v.shape[-1]
    if size != q.shape[-1]:  # the CPU's kernel wants one size for all
        v = torch.nn.functional.pad(v, (0, q.shape[-1] - size))
    out, logs = aten._scaled_dot_product_flash_attention_for_cpu(q, k, v, attn_mask=bias, scale=scale)
    return out[..., :size].transpose(1, 2).contiguous(), logs.float().contiguous()


def _packed(query, key, value, starts_q, starts_k, used_k, scale, causal, window):
    """Attention of sequences behind each other, (tokens, heads, size); each ends where the next starts."""
    out = torch.zeros(query.shape[0], query.shape[1], value.shape[-1], dtype=query.dtype)
    logs = torch.full((query.shape[1], query.shape[0]), float("-inf"))
    ranges = zip(pairwise(starts_q.tolist()), pairwise(starts_k.tolist()), strict=True)
    for at, ((first_q, end_q), (first_k, end_k)) in enumerate(ranges):
        end = end_k if used_k is None else first_k + int(used_k[at])
        if first_q == end_q or first_k == end:
            continue
        q, k, v = query[None, first_q:end_q], key[None, first_k:end], value[None, first_k:end]
        own, own_logs = _batch(q, k, v, scale, causal=causal, window=window)
        out[first_q:end_q] = own[0]
        logs[:, first_q:end_q] = own_logs[0]
    return out, logs


def _side(size):
    """How far a window reaches to one side; None is without end, which flash attention writes as -1."""
    return None if size is None or size < 0 else size


def _window(queries, keys, causal, window):
    """Return which keys a query sees, or None for all. The last query is at the last key."""
    left, right = window
    right = 0 if causal else right
    if left is None and right is None:
        return None
    distance = torch.arange(keys)[None, :] - (torch.arange(queries)[:, None] + keys - queries)
    seen = torch.ones(queries, keys, dtype=torch.bool)
    if left is not None:
        seen &= distance >= -left
    return seen if right is None else seen & (distance <= right)


def _triangle(queries, keys, kind):
    if kind == 0:
        return None
    if kind == BOTTOM_RIGHT:
        return _window(queries, keys, True, (None, None))
    return torch.ones(queries, keys, dtype=torch.bool).tril()


def _joined(bias, mask, dtype):
    """Return one additive bias of both."""
    if mask is None:
        return bias
    joined = torch.zeros(mask.shape, dtype=dtype).masked_fill_(~mask, float("-inf"))
    return joined if bias is None else bias + joined


def _refuse(**wanted):
    """Raise NotImplementedError for what is asked of a kernel and not computed."""
    for name, value in wanted.items():
        if value is not None and (isinstance(value, torch.Tensor) or value != 0):
            raise NotImplementedError(f"the simulated CUDA device computes no attention with {name}")


BY_NAME = {
    "_flash_attention_forward": flash,
    "_flash_attention_forward_no_dropout_inplace": flash_into,
    "_efficient_attention_forward": efficient,
    "_cudnn_attention_forward": cudnn,
}
