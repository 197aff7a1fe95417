"""Attacks on an exported file that need more than a device has: scikit-learn, reference networks, training.

What a device can measure by itself is in `qmu_edge.verify`. Nothing is imported here.
"""
