"""A simulated CUDA device: the CUDA build of torch, on libraries of ours that stand for NVIDIA's, without a GPU.

Memory is the host's, dispatch is CUDA's own for compute capability 9.0, and operators are computed by the CPU's. This
proves that the wiring of `--device cuda` is right, and nothing about a GPU: no number, no speed and no kernel is one's.

What is not served:

- Triton's kernels launch nothing, so that what they write is garbage. What inductor compiles calls torch's operators
  instead (`compiled.py`). Every other kernel that would be launched is an error.
- CUDA's activities are not profiled; CUDA's operators are.
- NCCL has the collectives that tensor parallelism needs, between processes of one machine; no sends and receives.
- Conditional nodes of graphs, memory shared between processes, expandable segments and green contexts are refused.
"""
