//! Processes and connections come and go.

mod inet_sock_set_state;
mod sched_process;
