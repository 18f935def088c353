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
if(HPC_BNN_ACCELERATOR STREQUAL "cpu" AND NOT HPC_BNN_SITE_PACKAGES)
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
torch @HPC_BNN_TORCH@@HPC_BNN_SITE_PACKAGES@ @HPC_BNN_ACCELERATOR@
")

# With the machine's own torch, its packages are seen behind those of build/env; where they lie may be said by
# the modules alone (PYTHONPATH) or by an environment of the machine, so a .pth file says it, too.
set(see_site "")
set(link_site "")
set(get_torch COMMAND ${pip_install} --no-deps ${HPC_BNN_TORCH_SOURCE} ${HPC_BNN_TORCH})
set(check_torch ${HPC_BNN_PYTHON} modules/cmake/check_torch.py ${HPC_BNN_ACCELERATOR})
set(check_needs ${HPC_BNN_PYTHON} -m pip --disable-pip-version-check check)
if(HPC_BNN_SITE_PACKAGES)
  set(see_site --system-site-packages)
  file(WRITE ${PROJECT_BINARY_DIR}/site_torch.pth "${HPC_BNN_SITE_PACKAGES}\n")
  set(packages lib/python${Python3_VERSION_MAJOR}.${Python3_VERSION_MINOR}/site-packages)
  set(link_site COMMAND ${CMAKE_COMMAND} -E copy ${PROJECT_BINARY_DIR}/site_torch.pth ${HPC_BNN_ENV}/${packages})
  set(get_torch "")
  set(check_torch ${check_torch} --site)
  set(check_needs ${HPC_BNN_PYTHON} modules/cmake/check_needs.py)
  set(mpi_again --ignore-installed --no-deps)   # its libraries and mpirun in build/env
endif()

step(venv DEPENDS ${identity}
  COMMENT "build/env: a virtual environment with Python ${Python3_VERSION}"
  COMMANDS
    COMMAND ${HPC_BNN_BASE_PYTHON} -m venv --clear ${see_site} ${HPC_BNN_ENV}
    ${link_site}
    COMMAND ${pip_install} --constraint ${requirements} setuptools wheel)

# Without its dependencies at first: a wrong build is refused before gigabytes of CUDA libraries follow.
step(torch AFTER venv DEPENDS modules/cmake/check_torch.py
  COMMENT "build/env: torch, built for ${HPC_BNN_ACCELERATOR}"
  COMMANDS
    ${get_torch}
    COMMAND ${check_torch})

if(HPC_BNN_MPI STREQUAL "system")
  # pip's cache knows nothing of MPI: it would hand out an mpi4py that was built against another one.
  set(install_mpi ${CMAKE_COMMAND} -E env MPICC=${HPC_BNN_MPICC}
    ${pip_install} ${mpi_again} --no-cache-dir --no-binary mpi4py --constraint ${requirements} ${mpi_packages})
else()
  set(install_mpi ${pip_install} ${mpi_again} --constraint ${requirements} ${mpi_packages})
endif()
step(mpi AFTER torch DEPENDS ${requirements}
  COMMENT "build/env: mpi4py on MPI = ${HPC_BNN_MPI}"
  COMMANDS COMMAND ${install_mpi})

step(requirements AFTER mpi
  COMMENT "build/env: everything else, as pinned in modules/cmake/requirements.txt.in"
  COMMANDS
    COMMAND ${pip_install} ${HPC_BNN_TORCH_SOURCE} --requirement ${requirements}
    COMMAND ${check_torch})

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
    COMMAND ${check_needs})

add_custom_target(dependencies DEPENDS ${stamps}/horovod)
set(environment ${stamps}/package)
if(HPC_BNN_ENV_KIND STREQUAL "squashfs")
  # The whole of an installation that works anywhere, in one file. Compression costs time once; zstd, where
  # this mksquashfs has it, is unpacked several times faster than gzip.
  set(image ${PROJECT_BINARY_DIR}/env.sqfs)
  set(staged ${PROJECT_BINARY_DIR}/squashfs)
  file(GLOB_RECURSE package CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/hpc_bnn/*)
  list(FILTER package EXCLUDE REGEX "/__pycache__/|\\.so$")
  add_custom_command(OUTPUT ${image}
    COMMAND ${CMAKE_COMMAND} -E rm -rf ${staged} ${image}
    COMMAND ${CMAKE_COMMAND} -E make_directory ${staged}
    COMMAND ${HPC_BNN_PYTHON} modules/cmake/relocatable.py
      ${HPC_BNN_ENV} ${staged}/env ${PROJECT_SOURCE_DIR} --link
    COMMAND ${CMAKE_COMMAND} -E copy ${PROJECT_BINARY_DIR}/hpc_bnn_site.json ${staged}
    COMMAND ${HPC_BNN_MKSQUASHFS} ${staged} ${image} -quiet -no-progress -no-xattrs -all-root ${compression}
    COMMAND ${CMAKE_COMMAND} -E rm -rf ${staged}
    DEPENDS ${stamps}/package modules/cmake/relocatable.py ${package}
    COMMENT "build/env.sqfs: the environment as one file"
    WORKING_DIRECTORY ${PROJECT_SOURCE_DIR} VERBATIM)
  list(APPEND environment ${image})
endif()
add_custom_target(env DEPENDS ${environment})
add_wheels_target(${requirements} ${stamps}/venv)
