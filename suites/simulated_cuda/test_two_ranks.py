"""Two processes with a simulated device each: NCCL's collectives give what they say."""

import json
import os
import subprocess
import sys

from suites.simulated_cuda.simulated import skip_elsewhere

skip_elsewhere()

RANK = """
import json, sys, torch, torch.distributed as dist
rank, store = int(sys.argv[1]), sys.argv[2]
torch.cuda.set_device(rank)
dist.init_process_group("nccl", init_method=f"file://{store}", rank=rank, world_size=2)
def of(dtype):
    return torch.arange(3, device="cuda").to(dtype) + rank
told = {}
for dtype in (torch.float32, torch.float16, torch.bfloat16, torch.int64):
    summed = of(dtype)
    dist.all_reduce(summed)
    told[str(dtype)] = summed.tolist()
large = torch.full((700_000,), 1.0 + rank, device="cuda")
dist.all_reduce(large, op=dist.ReduceOp.AVG)
told["large"] = [large.min().item(), large.max().item()]
parts = [torch.empty(3, device="cuda") for _ in range(2)]
dist.all_gather(parts, of(torch.float32))
told["gathered"] = torch.cat(parts).tolist()
sent = of(torch.float32)
dist.broadcast(sent, src=1)
told["sent"] = sent.tolist()
mine = torch.empty(2, device="cuda")
dist.reduce_scatter_tensor(mine, torch.arange(4.0, device="cuda") + rank)
told["scattered"] = mine.tolist()
dist.barrier()
group = dist.new_group([0, 1])
again = of(torch.float32)
dist.all_reduce(again, op=dist.ReduceOp.MAX, group=group)
told["most"] = again.tolist()
numbers, graph = of(torch.float32), torch.cuda.CUDAGraph()
with torch.cuda.graph(graph):
    doubled = numbers * 2
    dist.all_reduce(doubled)
    replayed = doubled + 1
    dist.all_reduce(again)
told["only captured"] = again.tolist()
told["captured"] = []
for more in (0, 10):
    numbers.add_(more)
    graph.replay()
    told["captured"].append(replayed.tolist())
dist.destroy_process_group()
print(json.dumps(told))
"""


def test_collectives(tmp_path):
    variables = {**os.environ, "SIMULATED_CUDA_DEVICES": "2"}
    ranks = [
        subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", RANK, str(rank), str(tmp_path / "store")],
            env=variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for rank in range(2)
    ]  # fmt: skip
    ended = [rank.communicate(timeout=120) for rank in ranks]
    for rank, (output, errors) in enumerate(ended):
        assert ranks[rank].returncode == 0, errors[-2000:]
        assert json.loads(output.splitlines()[-1]) == {
            **{f"torch.{name}": [1, 3, 5] for name in ("float32", "float16", "bfloat16", "int64")},
            "large": [1.5, 1.5],
            "gathered": [0, 1, 2, 1, 2, 3],
            "sent": [1, 2, 3],
            "scattered": [[1, 3], [5, 7]][rank],
            "most": [1, 2, 3],
            "only captured": [1, 2, 3],
            "captured": [[3, 7, 11], [43, 47, 51]],
        }
