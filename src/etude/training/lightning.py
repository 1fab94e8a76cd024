# ruff: noqa: E402
"""Names of Lightning, imported without the parts of torchmetrics that Lightning does not use.

Lightning uses two classes of torchmetrics. However, `import torchmetrics` also loads all metrics of images, text and
audio, and with them torchvision, transformers, ONNX Runtime and scipy.signal if these are installed. This takes longer
than importing torch and Lightning. There is no option that prevents it. Therefore all modules import Lightning from
here.
"""

from __future__ import annotations

import logging
import sys
import threading
import warnings
from importlib import import_module
from importlib.util import find_spec, module_from_spec
from types import ModuleType

LOCK = threading.RLock()


class DeferredModule(ModuleType):
    """Module whose code runs when a name is used that it does not have yet, in the same module object."""

    def __getattr__(self, name: str) -> object:
        """Run the code of the module, and return the name."""
        with LOCK:  # other threads wait until the module is complete
            if isinstance(self, DeferredModule) and "_is_running" not in vars(self):
                vars(self)["_is_running"] = True
                try:
                    self.__spec__.loader.exec_module(self)  # type: ignore[union-attr]
                    self.__class__ = ModuleType  # type: ignore[assignment]
                finally:
                    del vars(self)["_is_running"]
        try:
            return vars(self)[name]
        except KeyError:
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}") from None


def defer_torchmetrics() -> None:
    """Import only Metric and MetricCollection of torchmetrics. Its own code runs when another name is used.

    The submodules and classes are the same as after a normal import. If torchmetrics is imported already, nothing
    changes. If it has another structure than expected, it is imported normally.
    """
    if "torchmetrics" in sys.modules or (spec := find_spec("torchmetrics")) is None:
        return
    module = module_from_spec(spec)
    module.__class__ = DeferredModule
    sys.modules["torchmetrics"] = module
    names = vars(module)
    try:
        about = import_module("torchmetrics.__about__")
        names |= {name: getattr(about, name) for name in about.__all__}
        names["_logger"] = logging.getLogger("torchmetrics")
        import_module("torchmetrics.utilities")  # first, as in torchmetrics, because it and Metric import each other
        names["Metric"] = import_module("torchmetrics.metric").Metric
        names["MetricCollection"] = import_module("torchmetrics.collections").MetricCollection
    except (ImportError, AttributeError):
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchmetrics"]:
            del sys.modules[name]


defer_torchmetrics()  # before the imports below

from lightning_fabric.plugins.io import TorchCheckpointIO
from lightning_fabric.utilities.exceptions import MisconfigurationException
from pytorch_lightning import Callback, LightningDataModule, LightningModule, Trainer, seed_everything
from pytorch_lightning.accelerators import CPUAccelerator
from pytorch_lightning.callbacks import Checkpoint, ProgressBar
from pytorch_lightning.loggers import Logger
from pytorch_lightning.utilities import rank_zero_only
from torchmetrics import Metric

__all__ = [
    "CPUAccelerator",
    "Callback",
    "Checkpoint",
    "LightningDataModule",
    "LightningModule",
    "Logger",
    "Metric",
    "MisconfigurationException",
    "ProgressBar",
    "TorchCheckpointIO",
    "Trainer",
    "rank_zero_only",
    "seed_everything",
]


def ignore_warnings() -> None:
    """Ignore the warnings of Lightning and torch that have no meaning for the runs of Étude."""
    warnings.filterwarnings(
        "ignore",
        message=".*(does not have many workers|in eval mode at the start|Checkpoint directory|LeafSpec|isinstance).*",
    )
    # logged evaluation scores already include all devices, and the learning rate is equal on all devices
    warnings.filterwarnings("ignore", message=".*sync_dist=True.*")
    # batch norm over all devices needs the gradient of all_reduce, which functional collectives do not guarantee yet
    warnings.filterwarnings("ignore", message=".*nn.functional.all_reduce is deprecated.*")
    for name in ("pytorch_lightning", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
