package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"qlive/restapi/client"
	"qlive/vmstate"
)

func (a *app) eventCmd() *cobra.Command {
	c := &cobra.Command{Use: "event", Short: "Follow what changes"}
	c.AddCommand(a.eventWatchCmd())
	return c
}

func (a *app) eventWatchCmd() *cobra.Command {
	var watch client.Watch
	c := &cobra.Command{
		Use: "watch", Short: "Print changes as they happen",
		Long: `Print changes as they happen, one a line; with -o json one JSON object a line. The first is reset, with the whole
state, unless --since says where to go on. It ends with Ctrl-C, and outlives a restart of the daemon.`,
		Args: takes(),
		RunE: func(c *cobra.Command, _ []string) error {
			watch.Lost = func(err error) error { a.note("connection lost, trying again: %v", err); return nil }
			for e, err := range a.api().Events(c.Context(), watch) {
				if err == nil {
					err = a.printEvent(e)
				}
				if err != nil {
					return err
				}
			}
			return nil
		},
	}
	c.Flags().Uint64Var(&watch.After, "since", 0, "go on after the event of this number")
	c.Flags().StringVar(&watch.VM, "vm", "", "only of this VM")
	if err := c.RegisterFlagCompletionFunc("vm", a.completeVMs); err != nil {
		panic(err) // the flag is defined above
	}
	return c
}

func (a *app) printEvent(e vmstate.Event) error {
	var err error
	switch a.output {
	case "json":
		err = json.NewEncoder(a.Stdout).Encode(e)
	case "yaml":
		if _, err = fmt.Fprintln(a.Stdout, "---"); err == nil {
			err = a.printYAML(e)
		}
	case "name":
		_, err = fmt.Fprintln(a.Stdout, e.Seq)
	default:
		_, err = fmt.Fprintf(a.Stdout, "%s  %6d  %-9s  %s\n", e.At.Local().Format("15:04:05.000"), e.Seq, e.Type, clean(eventText(e)))
	}
	if err != nil {
		return errors.Join(errors.New("cannot write"), err)
	}
	return nil
}

// eventText says in one line what happened.
func eventText(e vmstate.Event) string {
	subject := strings.TrimSpace(e.VM + " " + e.Migration)
	if e.Deleted {
		return subject + " is gone"
	}
	switch data := e.Data.(type) {
	case vmstate.VM:
		return fmt.Sprintf("%s %s, pid %d, QEMU %s", data.Name, data.Status, data.PID, orDash(data.QEMU.Version))
	case vmstate.Region:
		return fmt.Sprintf("%s %s %s %d%%", subject, data.Name, data.State, data.Progress)
	case vmstate.Migration:
		text := fmt.Sprintf("%s %s %s %d%%", data.VM, data.ID, data.Phase, data.Progress)
		if data.Error != nil {
			text += ": " + data.Error.Detail
		}
		return text
	case vmstate.Health:
		text := fmt.Sprintf("ready %t, degraded %t", data.Ready, data.Degraded)
		for _, p := range data.Problems {
			text += ": " + p.Detail
		}
		return text
	case vmstate.State:
		return fmt.Sprintf("qlive %s: %d VMs, %d migrations", data.Version, len(data.VMs), len(data.Migrations))
	}
	return subject
}
