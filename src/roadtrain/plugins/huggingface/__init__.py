"""A script with transformers' `Trainer`, or one made of it such as TRL's `SFTTrainer`, on all devices of a machine.

    from roadtrain.plugins.huggingface import enable_multi_gpu
    enable_multi_gpu(num_gpus=2, batch_size_per_gpu=4)

as the first lines of the script, which stays as it is. See docs/huggingface.md.
"""

from roadtrain.plugins.huggingface.config import MultiGPUConfig
from roadtrain.plugins.huggingface.enabling import disable_multi_gpu, enable_multi_gpu, get_multi_gpu_status
from roadtrain.plugins.huggingface.joining import launch_ddp_training

__all__ = [
    "MultiGPUConfig",
    "disable_multi_gpu",
    "enable_multi_gpu",
    "get_multi_gpu_status",
    "launch_ddp_training",
]
