# perlmutter: the GPU nodes of Perlmutter at NERSC, 4 NVIDIA A100 a node. Submit with -A PROJECT.
# There is no partition to choose: constraint and QOS do it; --constraint="gpu&hbm80g" for 80 GB (check).
set(HPC_BNN_MODULES
  PrgEnv-gnu cudatoolkit craype-accel-nvidia80 nccl python)  # check: names, and Python 3.11 or newer
set(HPC_BNN_PARTITIONS "")
set(HPC_BNN_FEATURES gpu)
set(HPC_BNN_GPUS_PER_NODE 4)
set(HPC_BNN_CORES_PER_NODE 64)
set(HPC_BNN_CPUS_PER_TASK 32)                             # hardware threads: 16 cores
set(HPC_BNN_SBATCH --constraint=gpu --gpus-per-node=4
  --qos=regular                                           # check: or debug
  --exclusive)                                            # check: what this QOS implies
set(HPC_BNN_ACCELERATOR cuda)
set(HPC_BNN_TORCH torch==2.13.0)
set(HPC_BNN_MPI system)
set(HPC_BNN_MPI_COMPILER cc)                              # check: Cray's wrapper
set(HPC_BNN_HOROVOD_OPTIONS HOROVOD_GPU_OPERATIONS=NCCL
  HOROVOD_CUDA_HOME=$ENV{CUDA_HOME} CUDA_HOME=$ENV{CUDA_HOME}  # check: the module sets CUDA_HOME
  HOROVOD_BUILD_CUDA_CC_LIST=80)                          # check: A100
set(HPC_BNN_LAUNCHER srun)
set(HPC_BNN_LAUNCHER_FLAGS "")
set(HPC_BNN_BINDING --cpu-bind=cores)
set(HPC_BNN_NETWORK_INTERFACE hsn)                        # check: hsn0 to hsn3
# With 1, Cray's MPI and NCCL can wait for each other for ever (docs.cscs.ch, PyTorch); tensors that
# MPI moves lie on the host anyway. A module may set 1, so jobs set it again.
set(HPC_BNN_RUN_ENVIRONMENT MPICH_GPU_SUPPORT_ENABLED=0)
set(HPC_BNN_JOB_LINES
  "export MPICH_GPU_SUPPORT_ENABLED=0"
  "export OMP_NUM_THREADS=\${OMP_NUM_THREADS:-16}")       # one a core
set(HPC_BNN_CONTAINER_BINDS /opt/cray /var/spool/slurmd /usr/lib64/libcxi.so.1)  # check
