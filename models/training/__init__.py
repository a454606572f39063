"""The recipe of the bundled model: from pinned packages to `models/bundled`, in one resumable command.

In scope: everything between the list of sources and the finished folder with its card.
Not in scope: running the model (models.engine); nothing here is imported when docmill runs.
"""
