"""Maps the top-level rooms `tasks/`, `launch/` and `gin/` below `xtr`, so that a wheel claims one name only.

Everything else is in pyproject.toml; packages are found here because a find directive there cannot rename them.
"""

from setuptools import find_packages, setup

MAPPED = ("tasks", "launch")

packages = find_packages(include=["xtr", "xtr.*"])
for room in MAPPED:
    packages += [f"xtr.{room}", *(f"xtr.{room}.{name}" for name in find_packages(room))]

setup(
    packages=[*packages, "xtr.gin"],
    package_dir={f"xtr.{room}": room for room in (*MAPPED, "gin")},
    package_data={
        "xtr.gin": ["**/*.gin"],
        "xtr.launch": ["templates/*.sh", "recipes/*.md", "schemas/*.json"],
    },
)
