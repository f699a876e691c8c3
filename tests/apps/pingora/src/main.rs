//! A reverse proxy made with pingora: `pingora-lab LISTEN THREADS CONNECT_MS PATIENCE_MS FOLDER=TO…`,
//! where TO is `IP:PORT` or `unix:/PATH`.

use std::time::Duration;

use async_trait::async_trait;
use pingora::prelude::*;
use pingora::server::configuration::ServerConf;

struct Routes {
    routes: Vec<(String, String)>,
    connect: Duration,
    patience: Duration,
}

#[async_trait]
impl ProxyHttp for Routes {
    type CTX = ();

    fn new_ctx(&self) {}

    async fn upstream_peer(&self, session: &mut Session, (): &mut ()) -> Result<Box<HttpPeer>> {
        let path = session.req_header().uri.path();
        let route = self
            .routes
            .iter()
            .find(|(folder, _)| path.starts_with(folder));
        let (_, to) = route.ok_or_else(|| Error::explain(HTTPStatus(404), "no such folder"))?;
        let mut peer = match to.strip_prefix("unix:") {
            Some(path) => HttpPeer::new_uds(path, false, String::new())?,
            None => HttpPeer::new(to.as_str(), false, String::new()),
        };
        peer.options.connection_timeout = Some(self.connect);
        peer.options.read_timeout = Some(self.patience);
        peer.options.write_timeout = Some(self.patience);
        peer.options.idle_timeout = Some(Duration::from_secs(60));
        Ok(Box::new(peer))
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    env_logger::init();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [listen, threads, connect, patience, routes @ ..] = arguments.as_slice() else {
        return Err("usage: pingora-lab LISTEN THREADS CONNECT_MS PATIENCE_MS FOLDER=TO…".into());
    };
    let routes = routes
        .iter()
        .filter_map(|route| route.split_once('='))
        .map(|(folder, to)| (folder.to_owned(), to.to_owned()))
        .collect();
    let configuration = ServerConf {
        threads: threads.parse()?,
        ..ServerConf::default()
    };
    let mut server = Server::new_with_opt_and_conf(None, configuration);
    server.bootstrap();
    let routes = Routes {
        routes,
        connect: Duration::from_millis(connect.parse()?),
        patience: Duration::from_millis(patience.parse()?),
    };
    let mut service = http_proxy_service(&server.configuration, routes);
    service.add_tcp(listen);
    server.add_service(service);
    server.run_forever()
}
