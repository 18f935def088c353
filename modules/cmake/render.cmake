# Fills in job scripts and modulefiles with the facts about one machine. CMakeLists.txt does it for the
# build folder, install.cmake for the place of installation; by hand, without that machine's compilers:
#
#   cmake -D SITE=horeka -D OUT=/tmp/x -P modules/cmake/render.cmake
#
#   OUT/jobscripts/                    where the site starts its ranks with srun
#   OUT/hpc_bnn_site.json              how hpc-bnn run starts ranks (hpc_bnn.parallel.site)
#   OUT/first_run.md                   what nobody has run there (hpc-bnn help machine)
#   OUT/modules/hpc_bnn/VERSION.lua    for Lmod
#   OUT/modulefiles-tcl/hpc_bnn/VERSION  for environment-modules, in a folder of its own: Lmod reads both
#
# All of them expect the environment in OUT/env.
cmake_minimum_required(VERSION 3.25)

# Every run of every site: netCDF files are only read, so locks are of no use and fail on some file
# systems; packages of the user's home would be taken before those of the environment.
set(environment_of_every_site
  HDF5_USE_FILE_LOCKING=FALSE HOROVOD_STALL_CHECK_TIME_SECONDS=60 NCCL_DEBUG=WARN PYTHONNOUSERSITE=1)

# read_part(RESULT FILE): the text of FILE with @NAME@ filled in.
function(read_part result file)
  file(READ ${file} text)
  string(CONFIGURE "${text}" text @ONLY)
  string(STRIP "${text}" text)
  set(${result} "${text}" PARENT_SCOPE)
endfunction()

# join(RESULT SEPARATOR PATTERN REPLACEMENT ITEMS...): each item rewritten, all in one text.
function(join result separator pattern replacement)
  list(TRANSFORM ARGN REPLACE "${pattern}" "${replacement}")
  list(JOIN ARGN "${separator}" text)
  set(${result} "${text}" PARENT_SCOPE)
endfunction()

function(render_site out)
  if(ARGC GREATER 1)   # CMake parts a list there
    message(FATAL_ERROR "${ARGV}: a path with a semicolon: CMake takes it for several; choose another "
      "folder (OUT, --prefix, -B)")
  endif()
  # Between double quotes of bash, where a path may hold what bash would expand.
  string(REGEX REPLACE "([\"$`\\])" "\\\\\\1" HPC_BNN_ROOT_IN_QUOTES "${out}")
  file(STRINGS ${HPC_BNN_SOURCE}/hpc_bnn/__init__.py version REGEX "^__version__")
  string(REGEX REPLACE ".*\"(.*)\".*" "\\1" HPC_BNN_VERSION "${version}")

  set(environment ${environment_of_every_site} ${HPC_BNN_RUN_ENVIRONMENT})
  if(HPC_BNN_NETWORK_INTERFACE AND NOT HPC_BNN_ACCELERATOR STREQUAL "cpu")
    list(APPEND environment NCCL_SOCKET_IFNAME=${HPC_BNN_NETWORK_INTERFACE})
  endif()

  foreach(list IN ITEMS LAUNCHER_FLAGS BINDING)
    join(json_${list} ", " "^(.+)$" "\"\\1\"" ${HPC_BNN_${list}})
  endforeach()
  join(json_environment ",\n    " "^(.+)$" "\"\\1\"" ${environment})
  file(CONFIGURE OUTPUT ${out}/hpc_bnn_site.json @ONLY CONTENT [[
{
  "site": "@SITE@",
  "launcher": "@HPC_BNN_LAUNCHER@",
  "flags": [@json_LAUNCHER_FLAGS@],
  "binding": [@json_BINDING@],
  "environment": [
    @json_environment@
  ]
}
]])

  # What nobody has run there, for hpc-bnn help machine.
  file(REMOVE ${out}/first_run.md)
  file(READ ${site_file} text)
  string(REPLACE ";" "<semicolon>" text "${text}")
  string(REGEX MATCHALL "[^\n]*# check[^\n]*" from_memory "${text}")
  list(TRANSFORM from_memory STRIP)
  join(HPC_BNN_OPEN_LINES "\n" "^(.+)$" "    \\1" ${from_memory})
  string(REPLACE "<semicolon>" ";" HPC_BNN_OPEN_LINES "${HPC_BNN_OPEN_LINES}")
  if(NOT from_memory)
    set(HPC_BNN_OPEN_LINES "None.")
  endif()
  if(HPC_BNN_LAUNCHER STREQUAL "srun")
    configure_file(${HPC_BNN_SOURCE}/modules/first_run.md.in ${out}/first_run.md @ONLY)
  endif()

  set(pair "^([^=]+)=(.*)$")
  join(HPC_BNN_LUA_MODULES "\n" "^(.+)$" "depends_on(\"\\1\")" ${HPC_BNN_MODULES})
  join(HPC_BNN_LUA_ENVIRONMENT "\n" "${pair}" "pushenv(\"\\1\", \"\\2\")" ${environment})
  join(HPC_BNN_TCL_MODULES "\n" "^(.+)$" "if { ![is-loaded \\1] } { module load \\1 }" ${HPC_BNN_MODULES})
  join(HPC_BNN_TCL_ENVIRONMENT "\n" "${pair}" "setenv \\1 {\\2}" ${environment})
  set(templates ${HPC_BNN_SOURCE}/modules/hpc_bnn)
  configure_file(${templates}.lua.in ${out}/modules/hpc_bnn/${HPC_BNN_VERSION}.lua @ONLY)
  configure_file(${templates}.tcl.in ${out}/modulefiles-tcl/hpc_bnn/${HPC_BNN_VERSION} @ONLY)

  # Your own setting of a variable goes before the site's.
  join(HPC_BNN_JOB_ENVIRONMENT "\n" "${pair}" "export \\1=\"\${\\1:-\\2}\"" ${environment})
  list(JOIN HPC_BNN_JOB_LINES "\n" HPC_BNN_JOB_LINES)
  set(options ${HPC_BNN_SBATCH})
  if(HPC_BNN_PARTITIONS)
    list(GET HPC_BNN_PARTITIONS 0 partition)
    list(PREPEND options --partition=${partition})
  endif()
  join(HPC_BNN_SBATCH_LINES "\n" "^(.+)$" "#SBATCH \\1" ${options})
  list(JOIN HPC_BNN_MODULES " " modules)
  set(HPC_BNN_LOAD_MODULES "")
  if(modules)
    set(HPC_BNN_LOAD_MODULES "module load ${modules} || exit 1\n")
  endif()
  join(HPC_BNN_SRUN_OPTIONS " " "^(.+)$" "\"\\1\""
    ${HPC_BNN_LAUNCHER_FLAGS} ${HPC_BNN_BINDING} --kill-on-bad-exit=1)

  set(jobs ${HPC_BNN_SOURCE}/jobscripts)
  if(NOT CMAKE_SCRIPT_MODE_FILE)
    file(GLOB read ${jobs}/parts/*.in)
    set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS
      ${read} ${HPC_BNN_SOURCE}/hpc_bnn/__init__.py)
  endif()
  read_part(HPC_BNN_RESOURCES ${jobs}/parts/resources.in)
  list(JOIN HPC_BNN_SQUASHFS_MOUNT " " HPC_BNN_SQUASHFS_MOUNT)
  set(see_gpus_cuda " --nv")
  set(see_gpus_rocm " --rocm")
  set(HPC_BNN_CONTAINER_RUN "${HPC_BNN_CONTAINER_PROGRAM} exec${see_gpus_${HPC_BNN_ACCELERATOR}}")
  set(HPC_BNN_CONTAINER_EXPORTS "export CUDA_HOME=/usr/local/cuda ROCM_PATH=/opt/rocm")
  join(HPC_BNN_CONTAINER_BINDS "" "^(.+)$" ",\\1" ${HPC_BNN_CONTAINER_BINDS})
  read_part(HPC_BNN_ENVIRONMENT ${jobs}/parts/environment_${HPC_BNN_ENV_KIND}.in)
  read_part(HPC_BNN_RANKS ${jobs}/parts/ranks.in)
  read_part(HPC_BNN_RECOVERY ${jobs}/parts/recovery.in)
  file(GLOB templates ${jobs}/*.in)
  foreach(template IN LISTS templates)
    cmake_path(GET template STEM LAST_ONLY name)
    if(HPC_BNN_LAUNCHER STREQUAL "srun")
      configure_file(${template} ${out}/jobscripts/${name} @ONLY)
    else()
      file(REMOVE ${out}/jobscripts/${name})   # of another SITE, configured before
    endif()
  endforeach()
endfunction()

if(CMAKE_SCRIPT_MODE_FILE STREQUAL CMAKE_CURRENT_LIST_FILE)
  include(${CMAKE_CURRENT_LIST_DIR}/site.cmake)
  if(NOT OUT)
    message(FATAL_ERROR "OUT is missing: cmake -D SITE=${SITE} -D OUT=FOLDER -P modules/cmake/render.cmake")
  endif()
  cmake_path(ABSOLUTE_PATH OUT NORMALIZE)
  render_site(${OUT})
endif()
