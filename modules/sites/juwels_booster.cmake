# juwels_booster: JUWELS Booster at JSC, 4 NVIDIA A100 a node. Submit with -A BUDGET.
set(HPC_BNN_MODULES
  Stages/2025                                             # check: the year
  GCC OpenMPI CUDA NCCL
  Python)                                                 # check: the name; 3.11 or newer is needed
set(HPC_BNN_PARTITIONS booster develbooster largebooster) # largebooster: more than 256 nodes
set(HPC_BNN_GPUS_PER_NODE 4)
set(HPC_BNN_CORES_PER_NODE 48)
set(HPC_BNN_CPUS_PER_TASK 12)
set(HPC_BNN_SBATCH --gres=gpu:4 --threads-per-core=1
  --exclusive --mem=0)                                    # check: whole nodes only
set(HPC_BNN_ACCELERATOR cuda)
set(HPC_BNN_TORCH torch==2.13.0)
set(HPC_BNN_MPI system)
set(HPC_BNN_HOROVOD_OPTIONS HOROVOD_GPU_OPERATIONS=NCCL
  HOROVOD_CUDA_HOME=$ENV{CUDA_HOME} CUDA_HOME=$ENV{CUDA_HOME}  # check: the module sets CUDA_HOME
  HOROVOD_BUILD_CUDA_CC_LIST=80)                          # check: A100
set(HPC_BNN_LAUNCHER srun)
set(HPC_BNN_LAUNCHER_FLAGS "")
set(HPC_BNN_BINDING --cpu-bind=cores)                     # check: psslurm's pinning
set(HPC_BNN_NETWORK_INTERFACE ib0)                        # check: NCCL's bootstrap, not Ethernet
set(HPC_BNN_RUN_ENVIRONMENT "")
# Every rank sees all GPUs of its node and takes that of its node rank.
set(HPC_BNN_JOB_LINES "export CUDA_VISIBLE_DEVICES=0,1,2,3")
