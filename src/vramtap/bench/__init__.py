"""What is measured on the user's machine, on the workloads of the embedded one."""
