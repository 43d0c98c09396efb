//! Probes: programs for functions of the servers themselves, one function per file. The agent finds
//! the function in the running process, and attaches the program to this process only.
//!
//! A program here has the type `uprobe`. The kernel runs it in the thread that calls the function,
//! before an instruction near the function's start that the agent has chosen. The arguments are
//! still where the caller has put them.

mod call;
mod dns_db_addrdataset;
mod dns_dt_send;
mod dns_view;
mod isc_log_write;
mod names;
