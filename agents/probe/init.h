/* SPDX-License-Identifier: Apache-2.0
 *
 * What the agent does when it is PID 1, and how the machine ends.
 */
#ifndef OSBUILDER_INIT_H
#define OSBUILDER_INIT_H

/* Mounts what an init must, opens the console, brings loopback up, blocks the signals that stay_as_init awaits.
 * Complains on the console about what it cannot do and goes on: the probes then say what is missing. */
void init_system(void);

/* Reaps children until somebody asks PID 1 to end the machine (SIGTERM, SIGINT, SIGPWR), then returns. */
void stay_as_init(void);

/* Ends the machine so that its virtual machine monitor exits. As PID 1 it does not return; under another init it asks
 * that init, and returns -1 if the machine is still there after half a minute. */
int end_machine(void);

#endif
