"""What the shims leave behind, in a process of its own: their order of import is what matters."""

import subprocess
import sys

import pytest
import torch

from thinwire.runtime.shims import AFTER_IMPORT, BEFORE_IMPORT

CHECK = """
from thinwire.runtime.shims import import_xfuser
xfuser = import_xfuser()
assert import_xfuser() is xfuser
from xfuser import envs
from xfuser.config import config
from xfuser.core.distributed import group_coordinator
from xfuser.core.distributed.attention_backend import ATTENTION_FUNCTION_REGISTRY, AttentionBackendType
from xfuser.model_executor.layers import usp
import sys
assert sys.modules["xfuser"] is xfuser
assert envs.get_torch_distributed_backend() == "gloo"
assert envs.get_device_version() is None
assert envs.get_device(0).type == "cpu"
assert config.HAS_LONG_CTX_ATTN
assert usp.PROCESS_GROUP is not None
assert group_coordinator.synchronize() is None
import torch
q, k, v = (torch.randn(1, 2, 5, 8) for _ in range(3))
out, lse = ATTENTION_FUNCTION_REGISTRY[AttentionBackendType.SDPA_FLASH](q, k, v, 0.0, False)
scores = q @ k.transpose(-1, -2) / 8**0.5
assert torch.allclose(out, torch.softmax(scores, -1) @ v, atol=1e-5)
assert torch.allclose(lse, torch.logsumexp(scores, -1), atol=1e-5)
print("fine")
"""


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU: xfuser needs no stand-in for it")
def test_xfuser_is_imported_on_a_machine_without_a_gpu_and_says_nothing() -> None:
    ended = subprocess.run([sys.executable, "-c", CHECK], capture_output=True, text=True, timeout=200, check=False)
    assert ended.stdout == "fine\n", ended.stderr


@pytest.mark.parametrize("shim", [*BEFORE_IMPORT, *AFTER_IMPORT], ids=lambda shim: shim.__name__.rpartition(".")[2])
def test_every_shim_says_why_it_is_there_and_whether_it_is_needed(shim: object) -> None:
    assert len((shim.__doc__ or "").split()) > 10
    assert isinstance(shim.needed(), bool)
