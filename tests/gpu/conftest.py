"""Everything here needs a CUDA device and a library built with GGML_CUDA=ON, and skips with a reason without them."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pyllama_mtp import Model

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.gpu)


@pytest.fixture(scope="session")
def device(demo) -> str:
    """The name of the device that the embedded pair is placed on."""
    with Model(demo.target, mtp_head=demo.head, n_ctx=512, n_threads=1) as model:
        buffers = [part.split(":")[0] for part in model.info.placement.split("; ")]
    devices = [name for name in buffers if name.startswith("CUDA") and name != "CUDA_Host"]
    if not devices:
        pytest.skip(
            "needs a CUDA device and a library built with GGML_CUDA=ON; the model was placed on " + str(buffers)
        )
    return devices[0]


@pytest.fixture
def load(demo, device) -> Iterator[Callable[..., Model]]:
    """Loads the embedded pair, which draws from the whole distribution; keyword arguments as for Model, n_gpu_layers=0
    for the CPU.
    """
    models: list[Model] = []
    defaults = {"n_ctx": 1024, "n_threads": 2, "sampling_defaults": "vllm"}

    def load_pair(**options: object) -> Model:
        models.append(Model(demo.target, mtp_head=demo.head, **{**defaults, **options}))
        return models[-1]

    yield load_pair
    for model in models:
        model.close()
