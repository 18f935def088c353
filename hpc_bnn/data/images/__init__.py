"""Images: CIFAR-10 from its files, digits, and inputs that do not belong to a data set."""
