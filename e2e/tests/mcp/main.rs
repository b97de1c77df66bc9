//! `/mcp` as clients of every revision see it, in front of honest and faulty servers.

mod asks;
mod audit;
mod caller_lists;
mod calls;
mod changes;
mod entrance;
mod eras;
mod explain;
mod extensions;
mod instructions;
mod kit;
mod long;
mod mcp_views;
mod messages;
mod pages;
mod policies;
mod skills;
mod suspended;
mod tasks;
