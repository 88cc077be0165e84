"""Space `mobile-cifar`: the chain of 16 mobile blocks for CIFAR, after the same source as `mobile`.

All strides are 1 but those of the first convolution and of the sixth position. D = 16 variables with 106 categories.
"""

from nas.spaces.mobile import MobileSpace
from nas.spaces.mobile_architecture import MobileCifarArchitecture
from nas.spaces.registry import register_space


@register_space("mobile-cifar")
class MobileCifarSpace(MobileSpace):
    record = MobileCifarArchitecture
