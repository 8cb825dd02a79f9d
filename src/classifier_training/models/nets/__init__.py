"""The layers of our own networks. They import torch, so the register loads them only when one is built."""
