"""What happens to numbers and pictures between a robot and a network, in numpy: no torch, no weights, no files.

`lerobot` reads the two lists of steps that a LeRobot checkpoint comes with, `steps` does them, `images` makes a
camera's picture what the policy was trained on, `statistics` and `safetensors` read what stands beside.
"""
