//! `/mcp` as clients of every revision see it, in front of honest and faulty servers.

mod asks;
mod calls;
mod changes;
mod entrance;
mod eras;
mod kit;
mod long;
mod messages;
mod pages;
mod parked;
