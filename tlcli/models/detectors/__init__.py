"""Object detectors: torchvision's own, and three architectures on any backbone."""
