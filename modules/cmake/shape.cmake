# Prints what a test needs to know to stand in for a site's Slurm, one key=value a line:
#
#   cmake -D SITE=lumi_g -P modules/cmake/shape.cmake
#
#   nodes=4  accelerator=rocm  cores=56  threads=2  gpus=8  gres=gpu:8  partitions=standard-g,dev-g,small-g  features=
#
# cores: those of a node that a job may use; threads: per core; nodes: enough for a test.
cmake_minimum_required(VERSION 3.25)
include(${CMAKE_CURRENT_LIST_DIR}/site.cmake)

list(JOIN HPC_BNN_PARTITIONS "," partitions)
list(JOIN HPC_BNN_FEATURES "," features)
foreach(line IN ITEMS
    nodes=4
    accelerator=${HPC_BNN_ACCELERATOR}
    cores=${HPC_BNN_CORES_PER_NODE}
    threads=${HPC_BNN_THREADS_PER_CORE}
    gpus=${HPC_BNN_GPUS_PER_NODE}
    gres=gpu:${HPC_BNN_GPUS_PER_NODE}
    partitions=${partitions}
    features=${features})
  execute_process(COMMAND ${CMAKE_COMMAND} -E echo ${line})   # message() would write to stderr
endforeach()
