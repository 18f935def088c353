# jupiter: JUPITER at JSC, 4 GH200 a node. Submit with -A BUDGET.
# aarch64: build here, not on an x86 login node, and every wheel must be an aarch64 one.
# psid replaces slurmd (psslurm), so pinning differs from other Slurm machines.
set(HPC_BNN_MODULES
  Stages/2026 GCC OpenMPI CUDA NCCL Python)               # check: stage and names, as on JUWELS
set(HPC_BNN_PARTITIONS booster)                           # check
set(HPC_BNN_GPUS_PER_NODE 4)
set(HPC_BNN_CORES_PER_NODE 288)                           # check: 4 x 72
set(HPC_BNN_CPUS_PER_TASK 72)                             # check
set(HPC_BNN_SBATCH --gres=gpu:4                           # check
  --exclusive --mem=0)                                    # check: whole nodes only
set(HPC_BNN_THREADS_PER_CORE 1)                           # check
set(HPC_BNN_ACCELERATOR cuda)
set(HPC_BNN_TORCH torch==2.13.0)
set(HPC_BNN_TORCH_PIP_OPTIONS
  --extra-index-url https://download.pytorch.org/whl/cu130)  # check: CUDA wheels for aarch64
set(HPC_BNN_MPI system)
set(HPC_BNN_HOROVOD_OPTIONS HOROVOD_GPU_OPERATIONS=NCCL
  HOROVOD_CUDA_HOME=$ENV{CUDA_HOME} CUDA_HOME=$ENV{CUDA_HOME}  # check: the module sets CUDA_HOME
  HOROVOD_BUILD_CUDA_CC_LIST=90)                          # check: the Hopper half of GH200
set(HPC_BNN_LAUNCHER srun)
set(HPC_BNN_LAUNCHER_FLAGS "")
set(HPC_BNN_BINDING --cpu-bind=cores)                     # check: psslurm's pinning
set(HPC_BNN_NETWORK_INTERFACE ib0)                        # check: ip -br addr
set(HPC_BNN_RUN_ENVIRONMENT "")
