# lumi_g: LUMI-G at CSC, 4 AMD MI250X = 8 GPUs (GCDs) a node. Submit with -A project_462...
# Also --partition=dev-g (3 hours, 32 nodes) and small-g (3 days, 4 nodes).
set(HPC_BNN_MODULES
  LUMI/25.03                                              # check: the release
  partition/G rocm craype-accel-amd-gfx90a aws-ofi-rccl   # the plugin, else RCCL falls back to TCP
  cray-python)                                            # check: 3.11 or newer is needed
set(HPC_BNN_PARTITIONS standard-g dev-g small-g)
set(HPC_BNN_GPUS_PER_NODE 8)
set(HPC_BNN_CORES_PER_NODE 56)                            # of 64: the first of each eight is the system's
set(HPC_BNN_CPUS_PER_TASK 7)
set(HPC_BNN_SBATCH --gpus-per-node=8 --exclusive
  --mem=0 --hint=nomultithread)                           # check
set(HPC_BNN_ACCELERATOR rocm)
set(HPC_BNN_TORCH torch==2.13.0)
set(HPC_BNN_TORCH_PIP_OPTIONS
  --extra-index-url https://download.pytorch.org/whl/rocm7.1)  # check: what the driver takes
set(HPC_BNN_MPI system)
set(HPC_BNN_MPI_COMPILER cc)                              # check: Cray's wrapper
set(HPC_BNN_HOROVOD_OPTIONS HOROVOD_GPU=ROCM HOROVOD_GPU_OPERATIONS=NCCL
  HOROVOD_ROCM_HOME=$ENV{ROCM_PATH})                      # check: the module sets ROCM_PATH
set(HPC_BNN_LAUNCHER srun)
set(HPC_BNN_LAUNCHER_FLAGS "")
# Node rank i computes on GPU i; these are the cores beside it, whose order differs. All GPUs stay
# visible, so that RCCL may use the direct links; the program takes that of its node rank.
set(HPC_BNN_BINDING "--cpu-bind=mask_cpu:7e000000000000,7e00000000000000,7e0000,7e000000,\
7e,7e00,7e00000000,7e0000000000")
set(HPC_BNN_NETWORK_INTERFACE hsn)                        # hsn0 to hsn3
# With 1, Cray's MPI and RCCL can wait for each other for ever (docs.cscs.ch, PyTorch); tensors that
# MPI moves lie on the host anyway. A module may set 1, so jobs set it again.
set(HPC_BNN_RUN_ENVIRONMENT
  NCCL_NET_GDR_LEVEL=3 MPICH_GPU_SUPPORT_ENABLED=0 FI_CXI_DISABLE_CQ_HUGETLB=1 CXI_FORK_SAFE=1)
set(HPC_BNN_JOB_LINES
  "export MPICH_GPU_SUPPORT_ENABLED=0"
  "export OMP_NUM_THREADS=\${OMP_NUM_THREADS:-6}")         # each mask has six cores
set(HPC_BNN_ENV_KIND squashfs)                            # LUMI's documentation: no pip on Lustre
set(HPC_BNN_NODE_LOCAL /tmp)                              # memory of the node: there is no disk
set(HPC_BNN_CONTAINER_BINDS /opt/cray /var/spool/slurmd /usr/lib64/libcxi.so.1)  # check
set(HPC_BNN_CONTAINER_PROGRAM singularity)
