"""The built-in VM: a small x86-64 PC with a framebuffer, run by Unicorn or by KVM."""
