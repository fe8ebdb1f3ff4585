package daemon

import (
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"qlive/vmstate"
)

// metrics are what Prometheus is told. Counts are kept here; what is there now is read from the snapshot.
type metrics struct {
	gatherer   *prometheus.Registry
	registry   *registry
	migrations *prometheus.CounterVec
	pause      prometheus.Histogram
	phases     *prometheus.HistogramVec
	status     *prometheus.Desc
	ram        *prometheus.Desc
}

func newMetrics(version string, r *registry) *metrics {
	m := &metrics{
		gatherer: prometheus.NewRegistry(), registry: r,
		migrations: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "qlive_migrations_total", Help: "Handoffs that have ended, by how."}, []string{"result"}),
		pause: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "qlive_migration_pause_seconds", Help: "From sending stop to the reply of cont.",
			Buckets: prometheus.ExponentialBuckets(0.001, 2, 12)}),
		phases: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "qlive_migration_phase_seconds", Help: "Time spent in each phase of completed handoffs.",
			Buckets: prometheus.ExponentialBuckets(0.0005, 4, 10)}, []string{"phase"}),
		status: prometheus.NewDesc("qlive_vm_status", "1 for the status that the VM has.", []string{"vm", "status"}, nil),
		ram:    prometheus.NewDesc("qlive_vm_ram_bytes", "Guest RAM.", []string{"vm"}, nil),
	}
	build := prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "qlive_build_info", Help: "1, with the version as a label."}, []string{"version"})
	build.WithLabelValues(version).Set(1)
	m.gatherer.MustRegister(build, m.migrations, m.pause, m.phases, m)
	return m
}

func (m *metrics) handler() http.Handler {
	return promhttp.HandlerFor(m.gatherer, promhttp.HandlerOpts{})
}

func (m *metrics) handedOver(v vmstate.Migration) {
	m.migrations.WithLabelValues(string(v.Phase)).Inc()
	if v.Phase != vmstate.Completed {
		return
	}
	if v.PauseUS != nil {
		m.pause.Observe(float64(*v.PauseUS) / 1e6)
	}
	for _, p := range v.Phases {
		if !p.Phase.Ended() {
			m.phases.WithLabelValues(string(p.Phase)).Observe(float64(p.US) / 1e6)
		}
	}
}

// Describe implements prometheus.Collector.
func (m *metrics) Describe(ch chan<- *prometheus.Desc) { ch <- m.status; ch <- m.ram }

// Collect implements prometheus.Collector.
func (m *metrics) Collect(ch chan<- prometheus.Metric) {
	for _, vm := range m.registry.Snapshot().VMs {
		ch <- prometheus.MustNewConstMetric(m.status, prometheus.GaugeValue, 1, vm.Name, string(vm.Status))
		ch <- prometheus.MustNewConstMetric(m.ram, prometheus.GaugeValue, float64(vm.RAMBytes), vm.Name)
	}
}
