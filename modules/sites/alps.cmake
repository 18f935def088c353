# alps: Daint and Clariden on Alps at CSCS, 4 GH200 a node (aarch64: build on one of its own nodes). Submit
# with -A PROJECT. Compilers, CUDA and Cray MPICH come from a uenv, not from modules: build inside
# `uenv start prgenv-gnu/24.11:v2 --view=default` and submit with the same image (check: its version):
# sbatch --uenv=prgenv-gnu/24.11:v2 --view=default ...
set(HPC_BNN_MODULES "")
set(HPC_BNN_PARTITIONS normal debug)
set(HPC_BNN_GPUS_PER_NODE 4)
set(HPC_BNN_CORES_PER_NODE 288)
set(HPC_BNN_THREADS_PER_CORE 1)
set(HPC_BNN_CPUS_PER_TASK 72)                             # the Grace beside each Hopper
set(HPC_BNN_SBATCH --gpus-per-node=4
  --exclusive --mem=0)                                    # check: whole nodes are the default there
set(HPC_BNN_ACCELERATOR cuda)
set(HPC_BNN_TORCH torch==2.13.0)
set(HPC_BNN_TORCH_PIP_OPTIONS
  --extra-index-url https://download.pytorch.org/whl/cu130)  # check: CUDA wheels for aarch64
set(HPC_BNN_MPI system)
set(HPC_BNN_HOROVOD_OPTIONS HOROVOD_GPU_OPERATIONS=NCCL
  HOROVOD_CUDA_HOME=$ENV{CUDA_HOME} CUDA_HOME=$ENV{CUDA_HOME}  # check: the view sets CUDA_HOME
  HOROVOD_BUILD_CUDA_CC_LIST=90)
set(HPC_BNN_LAUNCHER srun)
set(HPC_BNN_LAUNCHER_FLAGS "")
set(HPC_BNN_BINDING --cpu-bind=cores)
set(HPC_BNN_NETWORK_INTERFACE hsn)                        # check: hsn0 to hsn3
# NCCL_NET: fails where the plugin of the Slingshot network is missing, instead of taking TCP. With
# MPICH_GPU_SUPPORT_ENABLED=1, Cray's MPI and NCCL can wait for each other for ever (docs.cscs.ch, PyTorch).
set(HPC_BNN_RUN_ENVIRONMENT "NCCL_NET=AWS Libfabric" NCCL_NET_GDR_LEVEL=PHB NCCL_CROSS_NIC=1
  FI_CXI_DEFAULT_CQ_SIZE=131072 FI_CXI_DEFAULT_TX_SIZE=32768 FI_CXI_DISABLE_HOST_REGISTER=1
  FI_CXI_RX_MATCH_MODE=software FI_MR_CACHE_MONITOR=userfaultfd MPICH_GPU_SUPPORT_ENABLED=0)
set(HPC_BNN_JOB_LINES "export MPICH_GPU_SUPPORT_ENABLED=0")
set(HPC_BNN_SQUASHFS_FOLDER /user-tools)                  # check: an empty folder of every node
set(HPC_BNN_SQUASHFS_MOUNT squashfs-mount IMAGE:FOLDER --)  # check: the words of this version
set(HPC_BNN_SQUASHFS site)
