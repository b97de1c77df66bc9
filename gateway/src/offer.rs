//! The offers of servers: lists are parsed, checked, repaired if that is safe, and named.

pub(crate) mod definition;
pub(crate) mod item;
pub(crate) mod links;
pub(crate) mod listing;
pub(crate) mod prompts_and_resources;
pub(crate) mod raw_tools;
pub(crate) mod schema;
pub(crate) mod search_tools;
pub(crate) mod short_names;
pub(crate) mod skills;
pub(crate) mod tools;
