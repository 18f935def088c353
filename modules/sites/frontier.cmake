# frontier: Frontier at OLCF, 4 AMD MI250X = 8 GPUs (GCDs) a node. Submit with -A PROJECT.
# -C nvme mounts the node's own disk at /mnt/bb. Should RCCL hang: NCCL_SOCKET_IFNAME=hsn0.
set(HPC_BNN_MODULES
  PrgEnv-gnu/8.7.0 cpe/26.03 rocm/7.1.1 craype-accel-amd-gfx90a
  rccl-net-plugin                                         # without it RCCL falls back to TCP
  cray-python)                                            # check: 3.11 or newer is needed
set(HPC_BNN_PARTITIONS batch extended)
set(HPC_BNN_GPUS_PER_NODE 8)
set(HPC_BNN_CORES_PER_NODE 56)                            # of 64: --core-spec=8 is the default
set(HPC_BNN_CPUS_PER_TASK 7)
set(HPC_BNN_SBATCH --network=disable_rdzv_get
  --exclusive --hint=nomultithread)                       # check: the defaults there
set(HPC_BNN_ACCELERATOR rocm)
set(HPC_BNN_TORCH torch==2.13.0)
set(HPC_BNN_TORCH_PIP_OPTIONS
  --extra-index-url https://download.pytorch.org/whl/rocm7.1)  # check: wheels for rocm/7.1
set(HPC_BNN_MPI system)
set(HPC_BNN_MPI_COMPILER cc)                              # check: Cray's wrapper
set(HPC_BNN_HOROVOD_OPTIONS HOROVOD_GPU=ROCM HOROVOD_GPU_OPERATIONS=NCCL
  HOROVOD_ROCM_HOME=$ENV{ROCM_PATH})                      # check: the module sets ROCM_PATH
set(HPC_BNN_LAUNCHER srun)
set(HPC_BNN_LAUNCHER_FLAGS "")
set(HPC_BNN_BINDING --gpus-per-task=1 --gpu-bind=closest) # each rank sees one GPU
set(HPC_BNN_NETWORK_INTERFACE hsn0,hsn1,hsn2,hsn3)
# With 1, Cray's MPI and RCCL can wait for each other for ever (docs.cscs.ch, PyTorch); tensors that
# MPI moves lie on the host anyway. A module may set 1, so jobs set it again.
set(HPC_BNN_RUN_ENVIRONMENT
  NCCL_NET_GDR_LEVEL=PHB NCCL_CROSS_NIC=1 FI_CXI_RDZV_PROTO=alt_read MPICH_GPU_SUPPORT_ENABLED=0)
set(HPC_BNN_JOB_LINES
  "export MPICH_GPU_SUPPORT_ENABLED=0"
  "export LD_LIBRARY_PATH=$CRAY_LD_LIBRARY_PATH:$LD_LIBRARY_PATH")
set(HPC_BNN_CONTAINER_BINDS /opt/cray /var/spool/slurmd /usr/lib64/libcxi.so.1)  # check
