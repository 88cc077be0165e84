"""A dropout that two forms of a supernet can share."""

import torch


def dropout_of_shape(draws):
    """A dropout whose mask depends only on the shape, so that the order of the edges does not matter.

    It appends the probability of each call to `draws`.
    """

    def dropout(x, probability):
        draws.append(probability)
        keep = torch.rand(x.shape, generator=torch.Generator().manual_seed(x.shape[-1]), dtype=x.dtype) > probability
        return x * keep / (1 - probability)

    return dropout
