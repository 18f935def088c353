# generic_rocm: any Slurm cluster with AMD GPUs; copy this file and say what your machine has. As
# generic_slurm, which stands beside this file, but for the GPUs; load ROCm before building.
include(${CMAKE_CURRENT_LIST_DIR}/generic_slurm.cmake)
set(HPC_BNN_ACCELERATOR rocm)
set(HPC_BNN_TORCH_PIP_OPTIONS
  --extra-index-url https://download.pytorch.org/whl/rocm7.1)  # check: what the driver takes
set(HPC_BNN_HOROVOD_OPTIONS HOROVOD_GPU=ROCM HOROVOD_GPU_OPERATIONS=NCCL
  HOROVOD_ROCM_HOME=$ENV{ROCM_PATH})                      # check: the module sets ROCM_PATH
