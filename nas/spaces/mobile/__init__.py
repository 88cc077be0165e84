"""Spaces `mobile` and `mobile_cifar`: a chain of mobile blocks."""
