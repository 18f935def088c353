# leonardo: Leonardo Booster at CINECA, 4 custom NVIDIA A100 a node. Submit with -A ACCOUNT.
# For tests of up to 30 minutes: --qos=boost_qos_dbg.
set(HPC_BNN_MODULES gcc/12.2.0 openmpi/4.1.6--gcc--12.2.0
  cuda/12.2 python/3.11.7)                                # check: the last digits
set(HPC_BNN_PARTITIONS boost_usr_prod)
set(HPC_BNN_GPUS_PER_NODE 4)
set(HPC_BNN_CORES_PER_NODE 32)
set(HPC_BNN_THREADS_PER_CORE 1)
set(HPC_BNN_CPUS_PER_TASK 8)
set(HPC_BNN_SBATCH --gres=gpu:4 --mem=0 --exclusive)      # nodes are shared otherwise
set(HPC_BNN_ACCELERATOR cuda)
set(HPC_BNN_TORCH torch==2.13.0)
set(HPC_BNN_MPI system)
set(HPC_BNN_HOROVOD_OPTIONS HOROVOD_GPU_OPERATIONS=NCCL
  HOROVOD_CUDA_HOME=$ENV{CUDA_HOME} CUDA_HOME=$ENV{CUDA_HOME}  # check: the module sets CUDA_HOME
  HOROVOD_BUILD_CUDA_CC_LIST=80)                          # check: A100
set(HPC_BNN_LAUNCHER srun)
set(HPC_BNN_LAUNCHER_FLAGS --mpi=pmix)                    # check: srun --mpi=list
set(HPC_BNN_BINDING --cpu-bind=cores)
set(HPC_BNN_NETWORK_INTERFACE ib0)                        # check: ip -br addr
set(HPC_BNN_RUN_ENVIRONMENT OMPI_MCA_pml=ucx)             # check: stops instead of using plain TCP
