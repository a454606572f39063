"""The recipe of the bundled model: from pinned packages to `models/bundled`, in one resumable command.

Nothing here is imported when docmill runs; it needs scikit-learn and scipy, which the product does not.
"""
