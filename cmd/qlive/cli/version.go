package cli

import (
	"fmt"
	"runtime"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"qlive/restapi/client"
)

// versions is what `version` prints.
type versions struct {
	Client  string          `json:"client"`
	Go      string          `json:"go"`
	Daemon  *client.Version `json:"daemon"` // null if it does not answer
	Trouble string          `json:"trouble,omitempty"`
}

func (a *app) versionCmd() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Print the versions of this command and of the daemon", Args: takes(),
		RunE: func(c *cobra.Command, _ []string) error {
			v := versions{Client: a.Version, Go: runtime.Version()}
			if daemon, err := a.api().Version(c.Context()); err != nil {
				v.Trouble = err.Error()
			} else {
				v.Daemon = &daemon
			}
			return a.print(printed{value: v, names: []string{v.Client}, table: func(w *tabwriter.Writer) {
				fmt.Fprintf(w, "client\t%s\n", v.Client)
				if v.Daemon == nil {
					fmt.Fprintf(w, "daemon\t-\n")
					a.note("%s", clean(v.Trouble))
					return
				}
				fmt.Fprintf(w, "daemon\t%s\n", clean(v.Daemon.Version))
			}})
		},
	}
}
