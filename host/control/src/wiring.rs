//! What the controllers of Services, of jobs and of taints listen to.

use std::sync::Mutex;

use eyot_client::{Cache, Change, Controller, Key};
use k8s_openapi::api::{
    batch::v1::{CronJob, Job},
    core::v1::{Endpoints, Node, Pod, Service},
    discovery::v1::EndpointSlice,
    policy::v1::PodDisruptionBudget,
};
use kube::Client;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::{
    announce::Announcer,
    cron_job::{self, CronJobs},
    disruption::{self, Disruptions},
    endpoint_slice::{self, EndpointSlices, mirror},
    endpoints::{self, AllEndpoints},
    follow, job,
    pod_control::PodControl,
    service,
    taint_eviction::{self, TaintEvictions},
};

/// Starts controllers, and then the watches that feed them.
pub(crate) struct Wiring<'a> {
    pub(crate) client: &'a Client,
    pub(crate) stop: &'a CancellationToken,
    pub(crate) pods: &'a Cache<Pod>,
    pub(crate) nodes: &'a Cache<Node>,
    pub(crate) tasks: &'a mut JoinSet<()>,
}

impl Wiring<'_> {
    pub(crate) fn start(mut self) {
        self.endpoints();
        self.jobs();
        self.taints();
        self.budgets();
    }

    fn announcer(&self, component: &'static str) -> Announcer {
        Announcer::start(self.client.clone(), component, self.stop.clone())
    }

    fn run<R: eyot_client::Reconciler>(&mut self, controller: Controller<R>) {
        self.tasks.spawn(controller.run(self.stop.clone()));
    }

    fn taints(&mut self) {
        let there = self.pods.clone();
        let evicting = Controller::new(TaintEvictions {
            client: self.client.clone(),
            pods: self.pods.clone(),
            nodes: self.nodes.clone(),
            announcer: self.announcer("taint-eviction-controller"),
            leaving: Mutex::default(),
        })
        .on(self.pods, |change| taint_eviction::of_pod(&change))
        .on(self.nodes, move |change| {
            taint_eviction::of_node(&there, &change)
        });
        self.run(evicting);
    }

    fn endpoints(&mut self) {
        let services: Cache<Service> = Cache::default();
        let all: Cache<Endpoints> = Cache::default();
        let slices: Cache<EndpointSlice> = Cache::default();
        let of_service = |change: Change<'_, Service>| Some(change.key.clone());
        let (here, there, everywhere) = (services.clone(), services.clone(), services.clone());
        let slicing = Controller::new(EndpointSlices {
            client: self.client.clone(),
            services: services.clone(),
            pods: self.pods.clone(),
            nodes: self.nodes.clone(),
            slices: slices.clone(),
            announcer: self.announcer("endpoint-slice-controller"),
        })
        .on(&services, of_service)
        .on(self.pods, move |change| service::of_pod(&here, &change))
        .on(self.nodes, move |change| {
            let touched = endpoint_slice::moves(&change);
            let services = touched.then(|| everywhere.list()).into_iter().flatten();
            services.map(|s| Key::of(&s.metadata)).collect::<Vec<_>>()
        })
        .on(&slices, |change| {
            change
                .object()
                .and_then(|slice| endpoint_slice::of_slice(slice))
        });
        let mirroring = Controller::new(mirror::Mirror {
            client: self.client.clone(),
            services: services.clone(),
            endpoints: all.clone(),
            slices: slices.clone(),
            announcer: self.announcer("endpoint-slice-mirroring-controller"),
        })
        .on(&services, of_service)
        .on(&all, |change| Some(change.key.clone()))
        .on(&slices, |change| {
            change.object().and_then(|slice| mirror::of_slice(slice))
        });
        let listing = Controller::new(AllEndpoints {
            client: self.client.clone(),
            services: services.clone(),
            pods: self.pods.clone(),
            endpoints: all.clone(),
            announcer: self.announcer("endpoint-controller"),
        })
        .on(&services, of_service)
        .on(self.pods, move |change| service::of_pod(&there, &change))
        .on(&all, |change| endpoints::of_endpoints(&change));
        self.run(slicing);
        self.run(mirroring);
        self.run(listing);
        follow(self.tasks, self.client, services, self.stop);
        follow(self.tasks, self.client, all, self.stop);
        follow(self.tasks, self.client, slices, self.stop);
    }

    fn jobs(&mut self) {
        let jobs: Cache<Job> = Cache::default();
        let announcer = self.announcer("job-controller");
        let (client, pods) = (self.client.clone(), self.pods.clone());
        let of_job = |change: Change<'_, Job>| Some(change.key.clone());
        let here = jobs.clone();
        let running = Controller::new(job::Jobs {
            client: client.clone(),
            jobs: jobs.clone(),
            pods: pods.clone(),
            control: PodControl::new(client.clone(), pods, announcer.clone()),
            announcer,
        })
        .on(&jobs, of_job)
        .on(self.pods, move |change| job::of_pod(&here, &change));
        let ending = Controller::new(job::ttl::Ttl {
            client,
            jobs: jobs.clone(),
        })
        .on(&jobs, of_job);
        let cron_jobs: Cache<CronJob> = Cache::default();
        let starting = Controller::new(CronJobs {
            client: self.client.clone(),
            cron_jobs: cron_jobs.clone(),
            jobs: jobs.clone(),
            announcer: self.announcer("cronjob-controller"),
        })
        .on(&cron_jobs, |change| Some(change.key.clone()))
        .on(&jobs, |change| cron_job::of_job(&change));
        self.run(running);
        self.run(ending);
        self.run(starting);
        follow(self.tasks, self.client, jobs, self.stop);
        follow(self.tasks, self.client, cron_jobs, self.stop);
    }

    fn budgets(&mut self) {
        let budgets: Cache<PodDisruptionBudget> = Cache::default();
        let here = budgets.clone();
        let reckoning = Controller::new(Disruptions {
            client: self.client.clone(),
            budgets: budgets.clone(),
            pods: self.pods.clone(),
            announcer: self.announcer("controllermanager"),
        })
        .on(&budgets, |change| Some(change.key.clone()))
        .on(self.pods, move |change| disruption::of_pod(&here, &change));
        self.run(reckoning);
        follow(self.tasks, self.client, budgets, self.stop);
    }
}
