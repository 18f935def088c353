# workstation: one machine with one or several GPUs and no batch system; hpc-bnn run -n GPUS starts a rank
# on each. As local, which stands beside this file, but for the GPUs: NVIDIA's, or AMD's where ROCm is
# installed (ROCM_PATH or /opt/rocm) and no NVIDIA driver is.
include(${CMAKE_CURRENT_LIST_DIR}/local.cmake)
cmake_host_system_information(RESULT HPC_BNN_CORES_PER_NODE QUERY NUMBER_OF_PHYSICAL_CORES)
set(HPC_BNN_NETWORK_INTERFACE "")                         # NCCL's choice
set(HPC_BNN_ACCELERATOR cuda)                             # the torch of PyPI on Linux
file(GLOB gpus /proc/driver/nvidia/gpus/*)
set(rocm /opt/rocm)
if(DEFINED ENV{ROCM_PATH})
  set(rocm $ENV{ROCM_PATH})
endif()
if(EXISTS ${rocm} AND NOT gpus)
  set(HPC_BNN_ACCELERATOR rocm)
  set(HPC_BNN_TORCH_PIP_OPTIONS
    --extra-index-url https://download.pytorch.org/whl/rocm7.1)  # check: what the driver takes
  file(GLOB gpus /sys/class/drm/renderD*)                 # check: a display adapter may be among them
endif()
list(LENGTH gpus HPC_BNN_GPUS_PER_NODE)
# Horovod for GPUs is compiled with the toolkit; without it torch.distributed, which brings its own NCCL, joins
# the ranks (grid.engine=auto).
if(HPC_BNN_ACCELERATOR STREQUAL "rocm" AND EXISTS ${rocm}/bin/hipcc)
  set(HPC_BNN_HOROVOD_OPTIONS HOROVOD_GPU=ROCM HOROVOD_GPU_OPERATIONS=NCCL HOROVOD_ROCM_HOME=${rocm})
elseif(HPC_BNN_ACCELERATOR STREQUAL "cuda" AND EXISTS "$ENV{CUDA_HOME}/bin/nvcc")
  set(HPC_BNN_HOROVOD_OPTIONS
    HOROVOD_GPU_OPERATIONS=NCCL HOROVOD_CUDA_HOME=$ENV{CUDA_HOME} CUDA_HOME=$ENV{CUDA_HOME})
endif()
