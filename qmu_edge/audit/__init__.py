"""Audits that need more than a device has: scikit-learn, reference models, a GPU.

They judge the exported file as well, through its logits. What a device can measure by itself is in
`qmu_edge.verify`. Nothing is imported here.
"""
