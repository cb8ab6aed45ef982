// What Prometheus' own engine says of a file of rules: which alerts fire, and when.
//
// Reads a JSON object from standard input: `rules`, the path of a file of groups; `minutes`, how long; and `series`, a
// list of {"labels": {...}, "values": [one a minute, null for none]}. Writes one JSON line for each alert that fires in
// a minute: {"minute", "alert", "labels", "annotations"}.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/rules"
	"github.com/prometheus/prometheus/tsdb"
)

type input struct {
	Rules   string
	Minutes int
	Series  []struct {
		Labels map[string]string
		Values []*float64
	}
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run() error {
	var asked input
	if err := json.NewDecoder(os.Stdin).Decode(&asked); err != nil {
		return err
	}
	folder, err := os.MkdirTemp("", "rules-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(folder)
	options := tsdb.DefaultOptions()
	db, err := tsdb.Open(folder, slog.New(slog.DiscardHandler), nil, options, nil)
	if err != nil {
		return err
	}
	defer db.Close()
	ctx := context.Background()
	start := time.UnixMilli(0).UTC()
	at := func(minute int) time.Time { return start.Add(time.Duration(minute) * time.Minute) }
	for minute := 0; minute < asked.Minutes; minute++ {
		appender := db.Appender(ctx)
		for _, series := range asked.Series {
			if minute < len(series.Values) && series.Values[minute] != nil {
				if _, err := appender.Append(0, labels.FromMap(series.Labels), at(minute).UnixMilli(), *series.Values[minute]); err != nil {
					return err
				}
			}
		}
		if err := appender.Commit(); err != nil {
			return err
		}
	}
	engine := promql.NewEngine(promql.EngineOpts{MaxSamples: 1e7, Timeout: time.Minute, LookbackDelta: 5 * time.Minute})
	manager := rules.NewManager(&rules.ManagerOptions{
		QueryFunc:    rules.EngineQueryFunc(engine, db),
		AppendableV2: db,
		Context:      ctx,
		NotifyFunc:   func(context.Context, string, ...*rules.Alert) {},
		Logger:       slog.New(slog.DiscardHandler),
		Queryable:    db,
	})
	groups, errs := manager.LoadGroups(time.Minute, labels.EmptyLabels(), "", nil, false, asked.Rules)
	if len(errs) > 0 {
		return errs[0]
	}
	out := json.NewEncoder(os.Stdout)
	for minute := 0; minute < asked.Minutes; minute++ {
		for _, group := range groups {
			group.Eval(ctx, at(minute))
			for _, rule := range group.AlertingRules() {
				if err := rule.LastError(); err != nil {
					return err
				}
				for _, alert := range rule.ActiveAlerts() {
					if alert.State == rules.StateFiring {
						said := map[string]any{"minute": minute, "alert": rule.Name(), "labels": alert.Labels.Map(), "annotations": alert.Annotations.Map()}
						if err := out.Encode(said); err != nil {
							return err
						}
					}
				}
			}
		}
	}
	return nil
}
