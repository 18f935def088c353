# Builds the virtual environment build/env in steps, each a stamp that depends on exactly what it needs:
#
#   venv -> torch -> mpi -> requirements -> horovod -> package
#
# Torch comes first and alone, so that no later requirement can bring another build of it; Horovod is
# compiled against that torch and that MPI; the package is linked in place, so Python edits need no build.
set(stamps ${HPC_BNN_ENV}/stamps)   # inside: whoever removes build/env removes them too
set(requirements ${PROJECT_BINARY_DIR}/requirements.txt)
set(pip_install ${HPC_BNN_PYTHON} -m pip --disable-pip-version-check install -qq   # errors only
  ${HPC_BNN_PIP_SOURCE})

# step(NAME AFTER previous DEPENDS files... COMMENT text COMMANDS COMMAND ... COMMAND ...)
function(step name)
  cmake_parse_arguments(PARSE_ARGV 1 arg "" "AFTER;COMMENT" "DEPENDS;COMMANDS")
  if(arg_AFTER)
    list(APPEND arg_DEPENDS ${stamps}/${arg_AFTER})
  endif()
  list(TRANSFORM arg_DEPENDS PREPEND ${PROJECT_SOURCE_DIR}/ REGEX "^[^/]")
  add_custom_command(OUTPUT ${stamps}/${name}
    ${arg_COMMANDS}
    COMMAND ${CMAKE_COMMAND} -E make_directory ${stamps}
    COMMAND ${CMAKE_COMMAND} -E touch ${stamps}/${name}
    DEPENDS ${arg_DEPENDS} COMMENT "${arg_COMMENT}" WORKING_DIRECTORY ${PROJECT_SOURCE_DIR} VERBATIM)
endfunction()

# A wheel of MPI is one more pinned package; the system's MPI is not pip's business.
set(mpi_packages mpi4py)
set(HPC_BNN_MPI_WHEEL "")
if(NOT HPC_BNN_MPI STREQUAL "system")
  set(HPC_BNN_MPI_WHEEL ${HPC_BNN_MPI})
  string(REGEX REPLACE "==.*" "" mpi_wheel_name ${HPC_BNN_MPI})
  list(PREPEND mpi_packages ${mpi_wheel_name})
endif()
# A torch for GPUs brings the Triton that it was built with. One for CPUs has none: there the tests of the
# kernel get the version that torch 2.13.0 for CUDA pins.
set(HPC_BNN_TRITON "")
if(HPC_BNN_ACCELERATOR STREQUAL "cpu")
  set(HPC_BNN_TRITON "triton==3.7.1; sys_platform == 'linux'")
endif()
configure_file(modules/cmake/requirements.txt.in ${requirements} @ONLY)
if(NOT EXISTS ${stamps}/requirements)   # else nothing is fetched
  check_packages(${HPC_BNN_BASE_PYTHON} ${requirements})
endif()

# Another Python, MPI or torch needs an environment from scratch: pip would leave pieces of the old one.
set(identity ${PROJECT_BINARY_DIR}/environment.txt)
file(CONFIGURE OUTPUT ${identity} @ONLY CONTENT
"python @HPC_BNN_BASE_PYTHON@ @Python3_VERSION@
mpi @HPC_BNN_MPI@ @HPC_BNN_MPIRUN@
torch @HPC_BNN_TORCH@ @HPC_BNN_ACCELERATOR@
")

step(venv DEPENDS ${identity}
  COMMENT "build/env: a virtual environment with Python ${Python3_VERSION}"
  COMMANDS
    COMMAND ${HPC_BNN_BASE_PYTHON} -m venv --clear ${HPC_BNN_ENV}
    COMMAND ${pip_install} --constraint ${requirements} setuptools wheel)

# Without its dependencies at first: a wrong build is refused before gigabytes of CUDA libraries follow.
step(torch AFTER venv DEPENDS modules/cmake/check_torch.py
  COMMENT "build/env: ${HPC_BNN_TORCH}, built for ${HPC_BNN_ACCELERATOR}"
  COMMANDS
    COMMAND ${pip_install} --no-deps ${HPC_BNN_TORCH_SOURCE} ${HPC_BNN_TORCH}
    COMMAND ${HPC_BNN_PYTHON} modules/cmake/check_torch.py ${HPC_BNN_ACCELERATOR})

if(HPC_BNN_MPI STREQUAL "system")
  # pip's cache knows nothing of MPI: it would hand out an mpi4py that was built against another one.
  set(install_mpi ${CMAKE_COMMAND} -E env MPICC=${HPC_BNN_MPICC}
    ${pip_install} --no-cache-dir --no-binary mpi4py --constraint ${requirements} ${mpi_packages})
else()
  set(install_mpi ${pip_install} --constraint ${requirements} ${mpi_packages})
endif()
step(mpi AFTER torch DEPENDS ${requirements}
  COMMENT "build/env: mpi4py on MPI = ${HPC_BNN_MPI}"
  COMMANDS COMMAND ${install_mpi})

step(requirements AFTER mpi
  COMMENT "build/env: everything else, as pinned in modules/cmake/requirements.txt.in"
  COMMANDS
    COMMAND ${pip_install} ${HPC_BNN_TORCH_SOURCE} --requirement ${requirements}
    COMMAND ${HPC_BNN_PYTHON} modules/cmake/check_torch.py ${HPC_BNN_ACCELERATOR})

# horovod.cmake reads the site for itself, so a change of its Horovod options is seen here.
step(horovod AFTER requirements
  DEPENDS modules/cmake/horovod.cmake modules/cmake/check_horovod.py ${site_file}
  COMMENT "build/env: Horovod"
  COMMANDS
    COMMAND ${CMAKE_COMMAND} -D SITE=${SITE} -D MPI=${HPC_BNN_MPI} -D WHEELS=${WHEELS}
      -D BUILD=${PROJECT_BINARY_DIR} -D PYTHON=${HPC_BNN_PYTHON} -P modules/cmake/horovod.cmake)

# setup.py cannot say which versions, requirements.txt.in cannot say what is needed: pip check compares.
step(package AFTER horovod DEPENDS setup.py hpc_bnn/__init__.py hpc_bnn/bayes/_noise.c hpc_bnn/data/_decode.c
  COMMENT "build/env: hpc_bnn, linked in place"
  COMMANDS
    COMMAND ${pip_install} --no-deps --no-build-isolation --use-pep517 --editable ${PROJECT_SOURCE_DIR}
    COMMAND ${HPC_BNN_PYTHON} -m pip --disable-pip-version-check check)

add_custom_target(dependencies DEPENDS ${stamps}/horovod)
add_custom_target(env DEPENDS ${stamps}/package)
add_wheels_target(${requirements} ${stamps}/venv)
