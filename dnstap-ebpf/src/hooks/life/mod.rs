//! Hooks on the begin and end of processes and connections.

mod inet_sock_set_state;
mod sched_process;
