//! What the controller does with news of the gateway replicas, and with their reports.

use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::ResourceExt as _;
use kube::runtime::watcher::Event;
use tokio::time::Instant;

use super::Controller;
use crate::fleet::Touched;
use crate::objects::admin_addresses;
use crate::poll::ReplicaReport;
use crate::watch::ListingStep;

impl Controller {
    /// Takes an event of the watch of the gateway's pods.
    pub(super) fn endpoints(&mut self, event: Event<EndpointSlice>, now: Instant) {
        let changed = match self.listings.slice(event) {
            ListingStep::Wait => false,
            ListingStep::Put(slice) => self.replicas.slice(slice.name_any(), admin_addresses(&slice), now),
            ListingStep::Gone(names) => {
                let changed: Vec<bool> =
                    names.into_iter().map(|name| self.replicas.slice(name, Vec::new(), now)).collect();
                changed.contains(&true)
            }
        };
        if changed {
            self.refresh_all(now);
        }
    }

    /// Takes the report of a replica, or its silence.
    pub(super) fn handle_report(&mut self, report: ReplicaReport) {
        let now = Instant::now();
        if let Ok(told) = &report.report {
            let counted = self.audit_counts.told(report.address, told);
            self.policies.mark(counted, now);
        }
        let Touched { servers, views } = self.replicas.told(report, now);
        self.views.mark(views, now);
        for key in servers {
            self.refresh(&key, now);
        }
    }
}
