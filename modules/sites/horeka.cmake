# horeka: HoreKa at KIT, 4 NVIDIA A100 a node; also --partition=accelerated-h100 or accelerated-h200.
# Submit with -A hk-project-...; fast local disk in $TMPDIR, data in workspaces.
set(HPC_BNN_MODULES
  compiler/gnu mpi/openmpi/4.1 devel/cuda
  devel/python)                                           # check: the name; 3.11 or newer is needed
set(HPC_BNN_PARTITIONS accelerated dev_accelerated accelerated-h100 dev_accelerated-h100 accelerated-h200)
set(HPC_BNN_GPUS_PER_NODE 4)                              # check: only the GPU count of --gres was seen
set(HPC_BNN_CORES_PER_NODE 76)
set(HPC_BNN_CPUS_PER_TASK 19)                             # a quarter of the cores
set(HPC_BNN_SBATCH --gres=gpu:4 --hint=nomultithread
  --exclusive --mem=0)                                    # check: whole nodes only, as --gres=gpu:4 implies
set(HPC_BNN_ACCELERATOR cuda)
set(HPC_BNN_TORCH torch==2.13.0)
set(HPC_BNN_MPI system)
set(HPC_BNN_HOROVOD_OPTIONS HOROVOD_GPU_OPERATIONS=NCCL
  HOROVOD_CUDA_HOME=$ENV{CUDA_HOME} CUDA_HOME=$ENV{CUDA_HOME}  # check: devel/cuda sets CUDA_HOME
  HOROVOD_BUILD_CUDA_CC_LIST=80,90)                       # check: A100, and H100/H200
set(HPC_BNN_LAUNCHER srun)
set(HPC_BNN_LAUNCHER_FLAGS --mpi=pmix)                    # check: srun --mpi=list
set(HPC_BNN_BINDING --cpu-bind=cores)
set(HPC_BNN_NETWORK_INTERFACE ib0)                        # check: ip -br addr
set(HPC_BNN_RUN_ENVIRONMENT OMPI_MCA_pml=ucx)             # check: stops instead of using plain TCP
