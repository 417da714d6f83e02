"""The front door: the scopehouse command and the demo. Imports everything, imported by none."""
